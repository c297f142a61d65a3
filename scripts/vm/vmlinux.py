#!/usr/bin/env python3
"""Takes the ELF kernel out of a bzImage: vmlinux.py BZIMAGE VMLINUX.

The boot protocol (Linux Documentation/arch/x86/boot.rst) puts the payload's offset and length at 0x248, counted
from the end of the real-mode code, whose length in 512-byte sectors stands at 0x1f1.
"""
import lzma
import struct
import subprocess
import sys
import zlib


def unpack(payload: bytes) -> bytes:
    if payload.startswith(b"\x7fELF"):
        return payload
    if payload.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    # The other formats carry the uncompressed length in their last four bytes.
    for magic, command in ((b"\x28\xb5\x2f\xfd", ["zstd", "-dc"]), (b"\x02\x21\x4c\x18", ["lz4", "-dc", "-"])):
        if payload.startswith(magic):
            return subprocess.run(command, input=payload[:-4], capture_output=True, check=False).stdout
    sys.exit(f"unknown kernel compression {payload[:4].hex()}")


def main() -> None:
    image = open(sys.argv[1], "rb").read()
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    kernel = unpack(image[start + offset : start + offset + length])
    if not kernel.startswith(b"\x7fELF"):
        sys.exit("the unpacked kernel is not an ELF file")
    open(sys.argv[2], "wb").write(kernel)


main()
