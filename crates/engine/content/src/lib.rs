//! Images as content: layers unpacked once and shared, snapshots over them, names.
//!
//! ```text
//! <root>/format                     "naru-content 1"; anything else is refused
//! <root>/lock                       flock, held by the one daemon that has the store open
//! <root>/images.json                images and names, those of builds' steps too; replaced by rename, always whole
//! <root>/blobs/sha256/<hex>         image configurations and manifests, verbatim; what is attested of images (see `attest`)
//! <root>/downloads/<hex>            layer blobs as far as they have come (see `download`)
//! <root>/layers/<chain id>/diff/        the layer, unpacked, as overlay wants it
//! <root>/layers/<chain id>/layer.json   what it is: diff id, parent, sizes, original blob
//! <root>/layers/<chain id>/blob         its archive as it came compressed, or as it was compressed for a push
//! <root>/layers/<chain id>/frame.zst    what makes its archive again, bit for bit (see `frame`)
//! <root>/init/diff/                 topmost read-only layer of every container
//! <root>/snapshots/<container id>/  layers, upper, work, mounted (see `snapshot`)
//! <root>/temporary/                 everything that is not finished; emptied by `open`
//! ```
//!
//! Collection: a layer is needed by images whose chain has it, by snapshots above it or beside it, and by loads under way (pins).
//! What nothing needs is moved to `temporary/` and deleted, by whoever takes the last need away, before it answers.
//!
//! Locks: `changes` (a mutex) is held while `images.json` is written or layers are deleted; `state` (a reader-writer
//! lock over the maps in memory) for moments only, never across a sync. `changes` is taken first. Unpacking holds
//! neither, so nothing waits for a load.
//!
//! Crashes: see `commit` for loads, `remove` for removals, `snapshot` for snapshots. Killed at any moment, a load is
//! there or not; a removal is done or not.
//!
//! This crate never mounts anything on the host, never starts a process, and never follows a link in an image out of
//! that image.

mod annotate;
mod archive;
mod attest;
mod commit;
mod copy_up;
mod derive;
mod download;
mod error;
mod frame;
mod image;
mod layout;
mod mounted;
mod recovery;
mod remove;
mod save;
mod send;
mod snapshot;
mod stage;
mod step;
mod store;
pub mod tarball;
mod unpack;

pub use annotate::Annotations;
pub use attest::{Attestation, AttestedParcel, Document, statement};
pub use download::{Assembly, Download, DownloadReader, DownloadWatch, parse_config};
pub use error::{ContentError, LayerError};
pub use image::{
    DiskUsage, HistoryEntry, Image, ImageUsage, ImageUser, LayerPlace, LoadProgress, LoadedImage, OpenReport,
    Removed, UsersOf,
};
pub use naru_oci::ImageConfig;
pub use save::SavePlan;
pub use send::{Parcel, ParcelLayer};
pub use snapshot::{EmptySnapshot, Snapshot};
pub use stage::{Compression, StagedLayer, decompress};
pub use step::StepLayer;
pub use store::ContentStore;
