//! Answers from outside, remembered for as long as they say, within limits.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Beyond this an answer is asked for again, whatever it says.
const TTL_MAX: Duration = Duration::from_secs(300);
/// That something does not exist is believed for a moment only: it may just be being made.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5);
/// A few hundred bytes each.
const ENTRIES_MAX: usize = 4096;

/// What must be the same for an answer to fit again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who was asked.
    servers: Vec<IpAddr>,
    name: String,
    kind: RecordType,
    class: DNSClass,
    is_checking_disabled: bool,
    wants_signatures: bool,
}

impl Key {
    pub fn new(servers: &[IpAddr], question: &Message) -> Option<Self> {
        let query = question.queries.first()?;
        Some(Self {
            servers: servers.to_vec(),
            name: query.name.to_ascii().to_ascii_lowercase(),
            kind: query.query_type,
            class: query.query_class,
            is_checking_disabled: question.metadata.checking_disabled,
            wants_signatures: question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
        })
    }
}

#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
}

#[derive(Debug)]
struct Entry {
    answer: Message,
    received: Instant,
    expires: Instant,
}

impl Cache {
    /// An answer that still holds, as this asker gets it, its remaining times counted down.
    pub fn find(&self, key: &Key, question: &Message, now: Instant) -> Option<Message> {
        let entry = self.entries.get(key).filter(|entry| now < entry.expires)?;
        let age = u32::try_from(now.duration_since(entry.received).as_secs()).unwrap_or(u32::MAX);
        let mut answer = entry.answer.clone();
        answer.metadata.id = question.metadata.id;
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        // The asker's own spelling.
        answer.queries.clone_from(&question.queries);
        let Message {
            answers,
            authorities,
            additionals,
            ..
        } = &mut answer;
        for record in answers.iter_mut().chain(authorities).chain(additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        if question.edns.is_none() {
            answer.edns = None;
        }
        Some(answer)
    }

    pub fn insert(&mut self, key: Key, answer: &Message, now: Instant) {
        let Some(ttl) = time_to_live(answer) else { return };
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| now < entry.expires);
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.clear();
        }
        let entry = Entry {
            answer: answer.clone(),
            received: now,
            expires: now + ttl,
        };
        self.entries.insert(key, entry);
    }
}

/// How long an answer holds; `None` for one not to be kept: failures, above all, end when their cause does.
fn time_to_live(answer: &Message) -> Option<Duration> {
    if answer.metadata.truncation {
        return None;
    }
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let ttl = match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => {
            let shortest = answer.answers.iter().map(|record| record.ttl).min()?;
            seconds(shortest).min(TTL_MAX)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = answer.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            seconds(soa?).min(NEGATIVE_TTL_MAX)
        }
        _ => return None,
    };
    (!ttl.is_zero()).then_some(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, Record};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question(text: &str) -> Message {
        let mut message = Message::new(9, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name(text), RecordType::A));
        message
    }

    fn answer(ttl: u32) -> Message {
        let mut answer = crate::answer::reply_to(&question("a.example."), ResponseCode::NoError);
        answer.add_answer(Record::from_rdata(
            name("a.example."),
            ttl,
            RData::A(A([1, 2, 3, 4].into())),
        ));
        answer
    }

    #[test]
    fn answers_hold_for_their_time_and_count_down() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let asked = question("A.Example.");
        let key = Key::new(&[], &asked).unwrap();
        cache.insert(key.clone(), &answer(60), now);
        let found = cache.find(&key, &asked, now + Duration::from_secs(20)).unwrap();
        assert_eq!((found.metadata.id, found.answers[0].ttl), (9, 40));
        assert_eq!(found.queries, asked.queries);
        assert!(cache.find(&key, &asked, now + Duration::from_secs(60)).is_none());
        let others = Key::new(&[IpAddr::from([1, 1, 1, 1])], &asked).unwrap();
        assert!(
            cache.find(&others, &asked, now).is_none(),
            "asked of another server"
        );
    }

    #[test]
    fn failures_are_forgotten_at_once_and_absence_soon() {
        let mut failed = answer(60);
        failed.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(time_to_live(&failed), None);
        let mut missing = crate::answer::reply_to(&question("a.example."), ResponseCode::NXDomain);
        assert_eq!(time_to_live(&missing), None, "without an authority's word");
        let soa = SOA::new(name("example."), name("root.example."), 1, 3600, 600, 86400, 3600);
        missing.add_authority(Record::from_rdata(name("example."), 3600, RData::SOA(soa)));
        assert_eq!(time_to_live(&missing), Some(NEGATIVE_TTL_MAX));
        assert_eq!(time_to_live(&answer(0)), None);
        assert_eq!(time_to_live(&answer(86400)), Some(TTL_MAX));
    }
}
