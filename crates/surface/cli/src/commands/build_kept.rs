//! `build` with a context that the daemon keeps: only what it does not have travels.
//!
//! The directory is listed first; where the digest of the listing is what the daemon has, nothing else is sent. What the
//! protocol is, the daemon's side says: `handlers/build_kept.rs` of crate `naru-docker-api`.

use super::build::{Directory, Place};
use super::build_extras::Extras;
use crate::Session;
use crate::error::{CliError, Result};
use crate::http::{Query, Response};
use crate::json::Value;
use crate::listing::Listing;
use crate::progress;
use std::io::{self, BufRead, BufReader, Write};

/// A Dockerfile that travels in a header, whose length daemons bound.
const DOCKERFILE_BYTES_MAX: usize = 32 << 10;

/// Bytes gathered before they are sent.
const GATHERED_BYTES: usize = 256 << 10;

/// Begins a build. `None` where an archive has to be sent instead: to a daemon that keeps no contexts, of files that cannot
/// be listed, or that change while they are sent.
pub(super) fn begin(
    session: &Session,
    directory: &Directory,
    query: Query,
    credentials: &str,
    extras: &Extras,
) -> Result<Option<BufReader<Response>>> {
    let own = match &directory.dockerfile {
        Place::Inside(_) => extras.header(),
        Place::Outside(text, _) if text.len() <= DOCKERFILE_BYTES_MAX => extras.header_with(Some(text)),
        Place::Outside(..) => return Ok(None),
    };
    let listing = Listing::of(&directory.root, &directory.ignore)
        .map_err(|error| CliError::message(format!("unable to prepare context: {error}")))?;
    let Some(listing) = listing else {
        return Ok(None);
    };
    let host = rustix::system::uname();
    let key = format!(
        "{}\n{}\n{}",
        host.nodename().to_string_lossy(),
        directory.ignore_name,
        directory.root.display()
    );
    let path = query
        .set("context", &key)
        .set_some("state", listing.state().as_deref())
        .build();
    let mut response = match session.client.converse(&path, credentials, &own) {
        // Docker's own, or an older one of Naru's.
        Err(error) if error.status() == Some(404) && is_unknown(&error) => return Ok(None),
        response => response?,
    };
    if response.header("x-naru-context") == Some("kept") {
        // A daemon that has ended already is told nothing; its answer says why.
        let _ = response.send(&[]);
        return Ok(Some(BufReader::new(response)));
    }
    bring_up_to_date(response, &listing)
}

/// Not every 404 is about the endpoint: an image may be missing.
fn is_unknown(error: &CliError) -> bool {
    matches!(error, CliError::Daemon { message, .. } if message.contains("page not found"))
}

fn bring_up_to_date(mut response: Response, listing: &Listing) -> Result<Option<BufReader<Response>>> {
    let mut body = Body::new(&mut response);
    let length = (listing.bytes.len() as u64).to_le_bytes();
    // A daemon that does not take it says why.
    let _ = [&length[..], &listing.bytes]
        .iter()
        .try_for_each(|part| body.write_all(part))
        .and_then(|()| body.flush());
    let mut answer = BufReader::new(response);
    let wanted = read_wanted(&mut answer)?;
    let mut body = Body::new(answer.get_mut());
    for number in wanted.into_iter().flat_map(|(first, count)| first..first + count) {
        match listing.send(number, &mut body) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            // The daemon has seen enough; its answer says why.
            Err(_) if body.is_broken => return Ok(Some(answer)),
            Err(error) => return Err(CliError::message(format!("read the input to send: {error}"))),
        }
    }
    if body.flush().is_ok() {
        let _ = answer.get_mut().send(&[]);
    }
    Ok(Some(answer))
}

/// The numbers of the files that the daemon wants: firsts, and how many there are.
fn read_wanted(answer: &mut BufReader<Response>) -> Result<Vec<(usize, usize)>> {
    let mut line = Vec::new();
    answer.read_until(b'\n', &mut line).map_err(CliError::Transport)?;
    let message = Value::parse(&line).map_err(|error| CliError::Protocol(error.to_string()))?;
    if let Some(error) = progress::error_of(&message) {
        return Err(error);
    }
    let number = |value: &Value| usize::try_from(value.integer()).unwrap_or(usize::MAX >> 1);
    let rows = message.get("wanted").items().iter().map(|row| match row.items() {
        [first, count] => Ok((number(first), number(count))),
        _ => Err(CliError::Protocol(
            "a row of files that are wanted is none".to_owned(),
        )),
    });
    rows.collect()
}

/// Gathers what is written and sends it as pieces of a request's body.
struct Body<'a> {
    response: &'a mut Response,
    gathered: Vec<u8>,
    is_broken: bool,
}

impl<'a> Body<'a> {
    fn new(response: &'a mut Response) -> Self {
        Self {
            response,
            gathered: Vec::new(),
            is_broken: false,
        }
    }
}

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHERED_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // An empty piece would be the end.
        if self.gathered.is_empty() {
            return Ok(());
        }
        let sent = self.response.send(&self.gathered);
        self.gathered.clear();
        self.is_broken |= sent.is_err();
        sent
    }
}
