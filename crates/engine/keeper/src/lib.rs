//! One small process per container: parent of its PID 1 and execs, owner of its streams, log and exit record.
pub mod codec;
pub mod protocol;
