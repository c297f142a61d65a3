//! Adapter: the NIFCLOUD computing API over HTTPS.
