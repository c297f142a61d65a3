//! The CSI services: the only place with tonic.
