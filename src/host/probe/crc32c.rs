//! CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), which ext4, XFS and Btrfs put on their superblocks.

/// Continues `crc` over `bytes`; no inversion before or after.
pub(super) fn update(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let lowest = crc & 1;
            crc = (crc >> 1) ^ (0x82F6_3B78 & lowest.wrapping_neg());
        }
    }
    crc
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
