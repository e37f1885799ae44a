//! Speaks to registries: the OCI distribution specification and Docker's registry HTTP API v2, as a client.
//!
//! ```text
//! plan_endpoints  where a name may be found: mirrors, then the registry itself; https, or http where it is allowed
//! Repository      one repository at one endpoint: manifests, blobs, uploads
//! ```
//! It never unpacks anything, never writes a file, and never sends credentials anywhere but to the registry they are
//! for and the token server that registry names; a redirect to another host goes without them.

mod auth;
mod certificates;
mod connection;
mod download;
mod endpoint;
mod error;
mod login;
mod outgoing;
mod proxy;
mod repository;
mod upload;

pub use auth::Credentials;
pub use connection::Body;
pub use download::{Download, Validators, download, download_unless_same};
pub use endpoint::{Endpoint, Purpose, RegistryOptions, plan_endpoints};
pub use error::RegistryError;
pub use login::{Found, LoggedIn, log_in, search};
pub use outgoing::Outgoing;
pub use proxy::Proxies;
pub use repository::{BlobStream, FetchedManifest, Repository};
pub use upload::{Upload, UploadStart};

pub type Result<T, E = RegistryError> = std::result::Result<T, E>;
