//! CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), which ext4, XFS and Btrfs put on their superblocks.

/// What each value of a byte does to the remainder.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let (mut byte, mut value) = (0, 0);
    while byte < 256 {
        let mut crc: u32 = value;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
        value += 1;
    }
    table
};

/// Continues `crc` over `bytes`; no inversion before or after.
pub(super) fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ TABLE[usize::from(low ^ byte)]
    })
}

/// The usual form: seed and result inverted.
pub(super) fn of(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_polynomial() {
        // RFC 3720 B.4: 32 bytes of zeros.
        assert_eq!(super::of(&[0; 32]), 0x8A91_36AA);
        assert_eq!(super::of(b"123456789"), 0xE306_9283);
    }
}
