//! A NIFCLOUD computing API on loopback, with real disks behind it.
