//! Names for containers: a small process that answers DNS at 127.0.0.11 inside each container on a user network.
//!
//! ```text
//!   daemon ──── resolver.sock: containers (with their netns), endpoints, pidfds ────▶ naru-resolver
//!                                                                                      │ one UDP and one TCP socket
//!   container netns:  program ── 127.0.0.11:53 ──(nft)──▶ 127.0.0.11:<any port> ───────┘ in each container's netns
//!                                                                                      │
//!        name servers of the container, asked from its own namespace ◀────────────────┤ what is not a
//!        name servers on the host's loopback, asked from the host's  ◀────────────────┘ container's name
//! ```
//!
//! The process outlives the daemon and goes on answering; a new daemon adopts it. A container that ends while no daemon
//! is there is noticed by its pidfd, so that its namespace is not kept. It ends by itself when nobody is connected and no
//! container is left.
//!
//! It never decides which names there are, writes no file, and starts nothing. It is single-threaded: sockets are opened
//! in another namespace by entering it for a moment.

mod answer;
mod cache;
mod listen;
mod names;
pub mod protocol;
mod server;
mod settings;
mod upstream;

pub use server::run;
pub use settings::{ContainerSettings, EndpointNames, NetworkView};

/// The first argument that makes the binary a resolver; its listening socket is standard input.
pub const RESOLVER_ROLE: &str = "resolver";

/// Where a container finds its resolver, as with Docker.
pub const RESOLVER_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 11);
