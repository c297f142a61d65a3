//! Every error code that the API answers by itself. Three kinds of evidence: *seen* in the vendor's own software or in
//! captured answers; *presumed* by analogy with other resources; *invented*, because no source tells. A client may act
//! on the seen ones only.

/// Makes the enum, its wire names and the list of all.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A code; see the module's documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// Seen.
    VolumeNotFound = "Client.InvalidParameterNotFound.Volume",
    /// Seen.
    InstanceNotFound = "Client.InvalidParameterNotFound.Instance",
    /// Presumed.
    ZoneNotFound = "Client.InvalidParameterNotFound.AvailabilityZone",
    /// Presumed.
    RegionNotFound = "Client.InvalidParameterNotFound.Region",
    /// Invented.
    ActionNotFound = "Client.InvalidParameterNotFound.Action",
    /// Presumed; that duplicates are refused is documented.
    DuplicateVolume = "Client.InvalidParameterDuplicate.Volume",
    /// Seen; the harder reading is that it answers for any VM.
    AlreadyAttached = "Server.Inoperable.Volume.AlreadyAttached",
    /// Seen for a detach; invented for an extension.
    Detached = "Client.Inoperable.Volume.DetachedFromInstance",
    /// Invented.
    InUse = "Client.Inoperable.Volume.InUse",
    /// Invented.
    DifferentZone = "Client.Inoperable.Volume.DifferentZone",
    /// Invented.
    InstanceRunning = "Client.Inoperable.Instance.Running",
    /// Invented; that the VM must be running or stopped is documented.
    InstanceState = "Client.Inoperable.Instance.IncorrectState",
    /// Invented; 14 disks per VM are the vendor's driver's limit.
    NoSlot = "Client.ResourceLimitExceeded.Instance.Volume",
    /// Seen.
    InstanceProcessing = "Server.ResourceIncorrectState.Instance.Processing",
    /// Presumed.
    VolumeProcessing = "Server.ResourceIncorrectState.Volume.Processing",
    /// Invented.
    MissingParameter = "Client.MissingParameter",
    /// Presumed, as all that begin so: the form is the API's, the detail is not documented.
    InvalidSize = "Client.InvalidParameterValue.Size",
    /// Presumed.
    InvalidDiskType = "Client.InvalidParameterValue.DiskType",
    /// Presumed.
    InvalidVolumeId = "Client.InvalidParameterValue.VolumeId",
    /// Presumed.
    InvalidAccountingType = "Client.InvalidParameterValue.AccountingType",
    /// Presumed.
    InvalidDescription = "Client.InvalidParameterValue.Description",
    /// Presumed.
    InvalidReboot = "Client.InvalidParameterValue.NiftyReboot",
    /// Presumed.
    InvalidAttribute = "Client.InvalidParameterValue.Attribute",
    /// Presumed.
    InvalidValue = "Client.InvalidParameterValue.Value",
    /// Presumed.
    AuthFailure = "Client.AuthFailure",
    /// Invented.
    RequestLimit = "Client.RequestLimitExceeded",
    /// Seen.
    Internal = "Server.InternalError",
}
