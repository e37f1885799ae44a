//! Stores of blobs that a client serves (`containerd.services.content.v1.Content`): directories with caches.
//!
//! ```text
//!  Read    we: digest                               client: bytes …
//!  Write   we: STAT ref total expected              client: offset
//!          we: WRITE offset bytes …, COMMIT         client: offset, after each
//! ```
//! What is there already is not sent. The messages are those fields of containerd's that are used here.

use crate::error::{KitError, Result};
use crate::session::Session;
use futures_util::stream;
use naru_base::Digest;
use naru_engine::EngineError;
use naru_engine::archive::Chunks;
use naru_engine::oci::Descriptor;
use std::io;
use tokio::sync::mpsc;
use tonic::Code;

const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const WHAT: &str = "a blob of a cache";

/// By this a client knows which of its stores is meant.
const STORE: &str = "buildkit-attachable-store-id";

const PIECES_MAX: usize = 8;

/// What is sent at once; a message may have 4 MiB.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadRequest {
    #[prost(string, tag = "1")]
    pub digest: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadResponse {
    #[prost(int64, tag = "1")]
    pub offset: i64,
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum WriteAction {
    Stat = 0,
    Write = 1,
    Commit = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteRequest {
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// A name for the write, by which it can go on later.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(int64, tag = "3")]
    pub total: i64,
    #[prost(string, tag = "4")]
    pub expected: String,
    #[prost(int64, tag = "5")]
    pub offset: i64,
    #[prost(bytes = "vec", tag = "6")]
    pub data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteResponse {
    #[prost(int64, tag = "4")]
    pub offset: i64,
}

fn asked<S>(session: &Session, method: &str, store: &str, questions: S) -> Result<tonic::Request<S>> {
    if !session.offers(method) {
        return Err(EngineError::invalid(format!(
            "the client serves no store {store}: it does not offer {}",
            method.trim_start_matches('/')
        ))
        .into());
    }
    let mut request = tonic::Request::new(questions);
    let wrong = |_| EngineError::invalid(format!("{store:?} is no name of a store"));
    request
        .metadata_mut()
        .insert(STORE, store.parse().map_err(wrong)?);
    Ok(request)
}

/// The bytes of a blob as they come; whoever reads them compares their digest.
pub async fn read(session: &Session, store: &str, digest: &Digest) -> Result<Chunks> {
    let question = ReadRequest {
        digest: digest.to_string(),
    };
    let question = asked(session, READ, store, stream::iter([question]))?;
    let mut answers = session
        .channel
        .converse::<ReadRequest, ReadResponse, _>(WHAT, READ, question)
        .await?;
    let (chunks, blob) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        loop {
            let chunk = match answers.message().await {
                Ok(None) => return,
                Ok(Some(piece)) => Ok(piece.data.into()),
                Err(status) => Err(io::Error::other(status.message().to_owned())),
            };
            let is_broken = chunk.is_err();
            if chunks.send(chunk).await.is_err() || is_broken {
                return;
            }
        }
    });
    Ok(blob)
}

/// Has the client keep a blob.
pub async fn write(session: &Session, store: &str, blob: &Descriptor, content: Chunks) -> Result<()> {
    let (questions, outgoing) = mpsc::channel(1);
    let outgoing = stream::unfold(
        outgoing,
        |mut outgoing: mpsc::Receiver<WriteRequest>| async move {
            outgoing.recv().await.map(|question| (question, outgoing))
        },
    );
    let question = asked(session, WRITE, store, outgoing)?;
    let request = WriteRequest {
        name: format!("naru-{}", blob.digest),
        total: blob.size as i64,
        expected: blob.digest.to_string(),
        ..WriteRequest::default()
    };
    // Sent ahead: the client may say nothing before it has read the first question.
    let begun = questions.send(request.clone()).await;
    begun.map_err(|_| KitError::broken(WHAT, "it left in the middle"))?;
    let opened = session
        .channel
        .converse::<WriteRequest, WriteResponse, _>(WHAT, WRITE, question)
        .await;
    let is_there = |error: &KitError| {
        matches!(
            error,
            KitError::Refused {
                code: Code::AlreadyExists,
                ..
            }
        )
    };
    let written = match opened {
        Err(error) => Err(error),
        Ok(answers) => {
            let writing = Writing {
                questions,
                answers,
                request,
            };
            writing.run(content).await
        }
    };
    match written {
        Err(error) if is_there(&error) => Ok(()),
        written => written,
    }
}

/// A write under way.
struct Writing {
    questions: mpsc::Sender<WriteRequest>,
    answers: tonic::Streaming<WriteResponse>,
    request: WriteRequest,
}

impl Writing {
    async fn run(mut self, mut content: Chunks) -> Result<()> {
        // Of a write that broke off the client has the beginning.
        let mut skipped = self.answer().await?;
        self.request.offset = skipped;
        let mut gathered = Vec::new();
        while let Some(chunk) = content.recv().await {
            let chunk =
                chunk.map_err(|error| EngineError::system(format!("cannot read the cache: {error}")))?;
            let known = usize::try_from(skipped).unwrap_or(0).min(chunk.len());
            skipped -= known as i64;
            gathered.extend_from_slice(&chunk[known..]);
            if gathered.len() >= PIECE_BYTES {
                self.send(WriteAction::Write, std::mem::take(&mut gathered))
                    .await?;
            }
        }
        if !gathered.is_empty() {
            self.send(WriteAction::Write, gathered).await?;
        }
        self.send(WriteAction::Commit, Vec::new()).await
    }

    async fn send(&mut self, action: WriteAction, data: Vec<u8>) -> Result<()> {
        let bytes = data.len() as i64;
        let question = WriteRequest {
            action: action.into(),
            data,
            ..self.request.clone()
        };
        let sent = self.questions.send(question).await;
        sent.map_err(|_| KitError::broken(WHAT, "it left in the middle"))?;
        self.request.offset += bytes;
        let offset = self.answer().await?;
        if offset == self.request.offset {
            return Ok(());
        }
        let reason = format!("it has {offset} bytes of {}", self.request.offset);
        Err(KitError::broken(WHAT, reason))
    }

    /// How much the client has.
    async fn answer(&mut self) -> Result<i64> {
        let answer = self.answers.message().await.map_err(KitError::refused(WHAT))?;
        let ended = || KitError::broken(WHAT, "it ended before it had everything");
        Ok(answer.ok_or_else(ended)?.offset)
    }
}
