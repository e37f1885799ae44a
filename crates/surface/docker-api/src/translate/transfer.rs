//! Steps of pulls and pushes as Docker's clients read them: a JSON object a line.

use crate::respond::json_line;
use bytes::Bytes;
use naru_docker_wire::types::{ErrorDetail, ProgressDetail, ProgressLine};
use naru_engine::TransferStep;
use serde_json::json;

/// The lines that tell one step.
pub fn progress_line(step: TransferStep) -> Vec<Bytes> {
    match step {
        TransferStep::Status { id, text } => {
            let progress_detail = id.as_ref().map(|_| ProgressDetail::default());
            vec![json_line(&ProgressLine {
                status: Some(text),
                id,
                progress_detail,
                ..ProgressLine::default()
            })]
        }
        TransferStep::Progress {
            id,
            text,
            bytes,
            bytes_total,
        } => vec![json_line(&ProgressLine {
            status: Some(text.to_owned()),
            id: Some(id),
            progress_detail: Some(ProgressDetail {
                current: bytes,
                total: bytes_total,
            }),
            progress: Some(bar(bytes, bytes_total)),
            ..ProgressLine::default()
        })],
        TransferStep::Pushed { tag, digest, bytes } => vec![
            json_line(&ProgressLine {
                status: Some(format!("{tag}: digest: {digest} size: {bytes}")),
                ..ProgressLine::default()
            }),
            json_line(&json!({
                "progressDetail": {},
                "aux": { "Tag": tag, "Digest": digest.to_string(), "Size": bytes },
            })),
        ],
    }
}

pub fn error_line(message: &str) -> Bytes {
    json_line(&ProgressLine {
        error_detail: Some(ErrorDetail {
            code: 0,
            message: message.to_owned(),
        }),
        error: Some(message.to_owned()),
        ..ProgressLine::default()
    })
}

/// Docker's bar, 50 wide, for clients that show it as it is.
fn bar(bytes: u64, bytes_total: u64) -> String {
    use crate::handlers::human_size;
    let filled = (bytes.min(bytes_total) * 50)
        .checked_div(bytes_total)
        .unwrap_or(0) as usize;
    let arrow = if filled < 50 { ">" } else { "" };
    let line = format!("{}{arrow}", "=".repeat(filled));
    format!("[{line:50}]  {}/{}", human_size(bytes), human_size(bytes_total))
}
