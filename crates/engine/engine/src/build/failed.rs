//! Where a `RUN` failed: the last of what it said, and images to look around in.
//!
//! What the command ran on is there anyway, as layers; an image that names them costs a small file. What the command
//! left costs its disk, so it is kept where that was asked for. Both have no name, have the step's environment, and
//! begin the stage's shell; they go when the same build next fails or succeeds, or with `builder prune`.

use super::BuildStep;
use super::cache;
use super::solve::{Builder, Stage};
use crate::Engine;
use crate::archive::blocking;
use crate::error::Result;
use naru_base::{ContainerId, Digest};
use naru_build::configure::shell_of;
use naru_content::Image;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Output that is remembered for an error's sake.
const TAIL_BYTES_MAX: usize = 8 << 10;

/// As many lines as fit into an error without hiding it.
const LINES_MAX: usize = 10;

/// A line of a progress bar can be of any length.
const LINE_LETTERS_MAX: usize = 300;

/// The end of what a command says.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        if self.0.len() > 2 * TAIL_BYTES_MAX {
            self.0.drain(..self.0.len() - TAIL_BYTES_MAX);
        }
    }

    /// Its last lines, for the end of a message; nothing where nothing was said.
    pub(super) fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<String> = text
            .lines()
            // Of a line that was rewritten the last form counts.
            .map(|line| line.trim_end().rsplit('\r').next().unwrap_or_default())
            .filter(|line| !line.is_empty())
            .map(|line| {
                line.chars()
                    .filter(|letter| !letter.is_control())
                    .take(LINE_LETTERS_MAX)
                    .collect()
            })
            .collect();
        if lines.is_empty() {
            return String::new();
        }
        let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
        format!("\nIt said last:\n    {}", last.join("\n    "))
    }
}

/// A `RUN` that failed.
pub(super) struct Failed<'a> {
    pub stage: &'a Stage,
    /// Without what only the command was to see.
    pub environment: Vec<String>,
    pub container: &'a ContainerId,
}

/// What is kept of one build's failure.
#[derive(Debug, Default, Serialize, Deserialize)]
struct FailedRecord {
    images: Vec<Digest>,
}

impl Builder {
    /// Makes the images to look around in; gives the words that say how. A failure here must not hide the step's own.
    pub(super) async fn keep_failed(&self, failed: Failed<'_>) -> String {
        match self.try_keep_failed(failed).await {
            Ok(words) => words,
            Err(error) => {
                tracing::warn!(%error, "cannot keep what a failed step ran on");
                String::new()
            }
        }
    }

    async fn try_keep_failed(&self, failed: Failed<'_>) -> Result<String> {
        let Some(before) = failed.stage.image.clone() else {
            return Ok(String::new());
        };
        self.forget_failed().await?;
        let before = self.shell_image(&before, &failed).await?;
        let mut words = format!(
            "\nTo look around in what it ran on: naru run --rm -it {}",
            before.short()
        );
        let mut record = FailedRecord { images: vec![before] };
        if self.request.keep_failed {
            let written = self.adopt(failed.container, failed.stage.time).await?;
            let left = self.shell_image(&written, &failed).await?;
            words.push_str("\nTo look around in what it left: naru run --rm -it ");
            words.push_str(left.short());
            record.images.extend([left.clone(), written.id.clone()]);
            self.teller.tell(BuildStep::Left(left)).await;
        }
        naru_store::write(&self.failed_path(), &record)?;
        Ok(words)
    }

    /// An image of the same files that begins the stage's shell, as the step would have found it.
    async fn shell_image(&self, image: &Arc<Image>, failed: &Failed<'_>) -> Result<Digest> {
        let mut config = failed.stage.state.config.clone();
        let shell = shell_of(&config.config).into_iter().next();
        config.config.cmd = shell.map(|shell| vec![shell]);
        config.config.entrypoint = None;
        config.config.healthcheck = None;
        config.config.env.clone_from(&failed.environment);
        let (content, image) = (Arc::clone(&self.engine.content), Arc::clone(image));
        blocking(move || {
            let made = content
                .configure_step(&image.layers, config)
                .map_err(crate::images::error)?;
            Ok(made.id)
        })
        .await
    }

    /// Lets go of what an earlier failure of this build left.
    pub(super) async fn forget_failed(&self) -> Result<()> {
        let path = self.failed_path();
        let engine = Arc::clone(&self.engine);
        blocking(move || {
            let Ok(record) = naru_store::read::<FailedRecord>(&path) else {
                return Ok(());
            };
            // First the record: what is in none goes with the next `builder prune`.
            naru_sys::file::remove_tree(&path)?;
            engine
                .content
                .forget_steps(&record.images)
                .map_err(crate::images::error)?;
            Ok(())
        })
        .await
    }

    /// One record for what a user would call the same build.
    fn failed_path(&self) -> PathBuf {
        let request = &self.request;
        let key = cache::key_of(&(
            "failed",
            &request.remote,
            &request.dockerfile,
            &request.target,
            &request.names,
        ));
        self.engine.failed_directory().join(key.hex())
    }
}

impl Engine {
    fn failed_directory(&self) -> PathBuf {
        self.builds_directory().join("failed")
    }

    /// Forgets all failures; their images go with those of steps that no record names.
    pub(super) fn clear_failed(&self) -> Result<()> {
        naru_sys::file::remove_tree(&self.failed_directory())?;
        Ok(naru_sys::file::make_directories(&self.failed_directory(), 0o700)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_remembered_and_bounded() {
        let mut tail = Tail::default();
        assert_eq!(tail.shown(), "");
        for number in 0..100_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        tail.push(b"10%\r20%\r\n\n\x1b[31mred\nno end");
        assert!(tail.0.len() <= 2 * TAIL_BYTES_MAX + 100);
        let shown = tail.shown();
        assert!(shown.starts_with("\nIt said last:\n    line 99993\n"), "{shown}");
        assert!(shown.ends_with("\n    20%\n    [31mred\n    no end"), "{shown}");
    }
}
