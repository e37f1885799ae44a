//! Images as content: blobs, layers, snapshots (skeleton).
pub struct ContentStore {}
