//! Archives as `cp` sends and receives them: packed while they are sent, unpacked while they come.

mod pack;
mod unpack;

pub use pack::Pack;
pub use unpack::{Rename, unpack};
