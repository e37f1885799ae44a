//! syslog messages in the forms that Docker knows: its own default, RFC 3164 and RFC 5424.

use super::lines::Line;
use super::plan::{SyslogFormat, SyslogPlan};
use crate::entry::Stream;
use naru_base::Timestamp;

pub(super) fn encode(plan: &SyslogPlan, line: &Line<'_>) -> Vec<u8> {
    let severity = match line.stream {
        Stream::Stdout => 6,
        Stream::Stderr => 3,
    };
    let priority = u16::from(plan.facility) * 8 + severity;
    let pid = std::process::id();
    let (host, tag) = (&plan.hostname, &plan.tag);
    let head = match plan.format {
        SyslogFormat::Unix => format!("<{priority}>{} {tag}[{pid}]: ", stamp(line.time)),
        SyslogFormat::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp(line.time)),
        SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro => {
            let time = rfc3339(line.time, plan.format == SyslogFormat::Rfc5424Micro);
            format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
        }
    };
    let mut message = head.into_bytes();
    message.extend_from_slice(line.bytes);
    message.push(b'\n');
    let is_counted = matches!(plan.format, SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro);
    if plan.tls.is_some() && is_counted {
        // RFC 5425: over TLS each message is told with its length.
        let mut counted = format!("{} ", message.len()).into_bytes();
        counted.append(&mut message);
        return counted;
    }
    message
}

/// `Jan  2 15:04:05`, in UTC as the host of a daemon has it.
fn stamp(time: Timestamp) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = time.to_string();
    let field = |at: usize| text.get(at..at + 2).and_then(|two| two.parse().ok()).unwrap_or(1);
    let month = MONTHS[(field(5) as usize).clamp(1, 12) - 1];
    let day: u8 = field(8);
    format!("{month} {day:>2} {}", text.get(11..19).unwrap_or_default())
}

/// `2026-01-02T15:04:05Z`, or with microseconds.
fn rfc3339(time: Timestamp, with_micros: bool) -> String {
    let text = time.to_string();
    let length = if with_micros { 26 } else { 19 };
    format!("{}Z", text.get(..length).unwrap_or(&text))
}
