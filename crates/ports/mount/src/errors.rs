//! Which error number a program sees for what came of an operation.

use client::ClientError;
use fuse::Errno;
use wire::names::MetaError;

/// For a refusal of the metadata group.
pub(crate) fn of_meta(e: MetaError) -> Errno {
    match e {
        MetaError::NotFound => Errno::NOENT,
        MetaError::Exists => Errno::EXIST,
        MetaError::NotDir => Errno::NOTDIR,
        MetaError::IsDir => Errno::ISDIR,
        MetaError::NotEmpty => Errno::NOTEMPTY,
        MetaError::BadName | MetaError::Invalid => Errno::INVAL,
        MetaError::TooManyLinks => Errno::MLINK,
        MetaError::NoSpace | MetaError::AttrsFull => Errno::NOSPC,
        MetaError::Unsupported => Errno::OPNOTSUPP,
        MetaError::TooLarge => Errno::FBIG,
        MetaError::NoAttr => Errno::NODATA,
        MetaError::TooLong => Errno::TOOBIG,
        MetaError::Range => Errno::RANGE,
        MetaError::LocksFull => Errno::NOLCK,
        MetaError::NoMds
        | MetaError::Quorum
        | MetaError::MdsFull
        | MetaError::NoCs
        | MetaError::TooFewCs
        | MetaError::CsFull => Errno::INVAL,
        // These tell of leases and sessions, which programs know nothing of.
        MetaError::NotHeld | MetaError::SessionGone | MetaError::Unzeroed => Errno::IO,
    }
}

/// For any error of the client.
pub(crate) fn of(e: ClientError) -> Errno {
    match e {
        ClientError::Meta(e) => of_meta(e),
        ClientError::LeaseLost | ClientError::WritesLost | ClientError::SessionLost | ClientError::DataLost => {
            Errno::IO
        }
    }
}

/// Would the same operation, asked again, do what the program wanted? Only of those that may happen twice.
pub(crate) fn passes(e: ClientError) -> bool {
    matches!(
        e,
        ClientError::LeaseLost
            | ClientError::SessionLost
            | ClientError::Meta(MetaError::NotHeld | MetaError::SessionGone)
    )
}
