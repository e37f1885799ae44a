//! What to do with a question: answer it from the directory, refuse it, or ask outside. Pure.

use crate::names::Directory;
use crate::settings::ContainerSettings;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::IpAddr;

/// How long a client may remember a container's address; Docker's figure.
const LOCAL_TTL_SECONDS: u32 = 600;
/// What Docker Desktop calls the host; on Linux a name for the gateway.
const HOST_NAME: &str = "host.docker.internal";
/// What a client takes by UDP when it does not say (RFC 1035, 4.2.1).
pub const UDP_BYTES_DEFAULT: u16 = 512;

#[derive(Debug)]
pub enum Decision {
    /// Not a question at all: no answer.
    Ignore,
    Answer(Box<Message>),
    /// A question for the container's name servers.
    Forward(Box<Message>),
}

/// Decides about one packet. `turn` rotates the addresses of a name that several containers share.
pub fn decide(packet: &[u8], directory: &Directory, viewer: &ContainerSettings, turn: usize) -> Decision {
    let Ok(question) = Message::from_vec(packet) else {
        return malformed(packet);
    };
    if question.metadata.message_type != MessageType::Query {
        return Decision::Ignore;
    }
    if question.metadata.op_code != OpCode::Query {
        return refuse(&question, ResponseCode::NotImp);
    }
    let [query] = question.queries.as_slice() else {
        return refuse(&question, ResponseCode::FormErr);
    };
    if query.query_class == DNSClass::IN
        && let Some(records) = find_local(query, directory, viewer, turn)
    {
        let mut answer = reply_to(&question, ResponseCode::NoError);
        answer.add_answers(records);
        return Decision::Answer(Box::new(answer));
    }
    if !viewer.forwards {
        return refuse(&question, ResponseCode::ServFail);
    }
    if viewer.keeps_short_names && query.name.num_labels() <= 1 {
        return refuse(&question, ResponseCode::NXDomain);
    }
    Decision::Forward(Box::new(question))
}

/// A packet that cannot be read is told so by its number alone.
fn malformed(packet: &[u8]) -> Decision {
    let is_question = packet.len() >= 12 && packet[2] & 0x80 == 0;
    if !is_question {
        return Decision::Ignore;
    }
    let id = u16::from_be_bytes([packet[0], packet[1]]);
    let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    Decision::Answer(Box::new(answer))
}

fn refuse(question: &Message, code: ResponseCode) -> Decision {
    Decision::Answer(Box::new(reply_to(question, code)))
}

/// An answer without records, with the question it belongs to.
pub fn reply_to(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(question.queries.iter().cloned());
    answer
}

/// Records for a name or address of a container; an empty list for a name that has none of the wanted type.
fn find_local(
    query: &Query,
    directory: &Directory,
    viewer: &ContainerSettings,
    turn: usize,
) -> Option<Vec<Record>> {
    let record = |data: RData| Record::from_rdata(query.name.clone(), LOCAL_TTL_SECONDS, data);
    if query.query_type == RecordType::PTR
        && let Some(address) = address_of(&query.name)
    {
        let name = directory.find_by_address(viewer, address)?;
        let name = Name::from_ascii(format!("{name}.")).ok()?;
        return Some(vec![record(RData::PTR(PTR(name)))]);
    }
    let name = query.name.to_ascii().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let host = viewer.host_address.filter(|_| name == HOST_NAME);
    let mut addresses = directory
        .find(viewer, name)
        .or_else(|| host.map(|address| vec![IpAddr::V4(address)]))?;
    if !addresses.is_empty() {
        let by = turn % addresses.len();
        addresses.rotate_left(by);
    }
    let wants = |wanted| query.query_type == wanted || query.query_type == RecordType::ANY;
    let data = addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) if wants(RecordType::A) => Some(RData::A(A(address))),
        IpAddr::V6(address) if wants(RecordType::AAAA) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    });
    Some(data.map(record).collect())
}

/// The one address that a reverse name stands for.
fn address_of(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

/// How much the asker takes by UDP.
pub fn udp_bytes_max(question: &Message) -> u16 {
    question.edns.as_ref().map_or(UDP_BYTES_DEFAULT, |edns| {
        edns.max_payload().max(UDP_BYTES_DEFAULT)
    })
}

/// The bytes of an answer; one that is longer than the asker takes becomes a request to ask by TCP.
pub fn encode(answer: &Message, bytes_max: usize) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= bytes_max {
        return Some(bytes);
    }
    let mut short = answer.truncate();
    short.metadata.truncation = true;
    short.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{EndpointNames, NetworkView};
    use std::net::Ipv4Addr;

    fn world() -> (Directory, ContainerSettings) {
        let mut directory = Directory::default();
        for (container, last) in [("a", 2), ("b", 3)] {
            let endpoint = EndpointNames {
                network_name: "blue".to_owned(),
                names: vec![format!("web-{container}"), "web".to_owned()],
                addresses: vec![IpAddr::from([10, 0, 0, last])],
            };
            directory.set("1", container, endpoint);
        }
        let viewer = ContainerSettings {
            networks: vec![NetworkView {
                network: "1".to_owned(),
                ..NetworkView::default()
            }],
            forwards: true,
            host_address: Some(Ipv4Addr::new(10, 0, 0, 1)),
            ..ContainerSettings::default()
        };
        (directory, viewer)
    }

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn ask(name: &str, kind: RecordType, turn: usize) -> Option<(ResponseCode, Vec<String>)> {
        let (directory, viewer) = world();
        match decide(&question(name, kind), &directory, &viewer, turn) {
            Decision::Answer(answer) => {
                assert_eq!(answer.metadata.id, 7);
                assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
                let data = answer.answers.iter().map(|record| record.data.to_string());
                Some((answer.metadata.response_code, data.collect()))
            }
            _ => None,
        }
    }

    fn found(texts: &[&str]) -> Option<(ResponseCode, Vec<String>)> {
        let texts = texts.iter().map(|text| (*text).to_owned());
        (ResponseCode::NoError, texts.collect()).into()
    }

    #[test]
    fn names_of_containers_are_answered_here() {
        assert_eq!(ask("WEB-a.", RecordType::A, 0), found(&["10.0.0.2"]));
        assert_eq!(ask("web.", RecordType::A, 0), found(&["10.0.0.2", "10.0.0.3"]));
        assert_eq!(ask("web.", RecordType::A, 1), found(&["10.0.0.3", "10.0.0.2"]));
        assert_eq!(ask("web.", RecordType::AAAA, 0), found(&[]));
        assert_eq!(ask("web.blue.", RecordType::MX, 0), found(&[]));
        assert_eq!(
            ask("3.0.0.10.in-addr.arpa.", RecordType::PTR, 0),
            found(&["web-b.blue."])
        );
        assert_eq!(
            ask("host.docker.internal.", RecordType::A, 0),
            found(&["10.0.0.1"])
        );
        for name in ["example.org.", "9.0.0.10.in-addr.arpa.", "other."] {
            assert_eq!(ask(name, RecordType::PTR, 0), None, "{name}");
        }
    }

    #[test]
    fn what_may_not_go_out_is_refused() {
        let (directory, mut viewer) = world();
        viewer.keeps_short_names = true;
        let code = |viewer: &ContainerSettings, name| match decide(
            &question(name, RecordType::A),
            &directory,
            viewer,
            0,
        ) {
            Decision::Answer(answer) => Some(answer.metadata.response_code),
            _ => None,
        };
        assert_eq!(code(&viewer, "short."), Some(ResponseCode::NXDomain));
        assert_eq!(code(&viewer, "long.example."), None);
        viewer.forwards = false;
        assert_eq!(code(&viewer, "long.example."), Some(ResponseCode::ServFail));
        assert_eq!(code(&viewer, "web."), Some(ResponseCode::NoError));
    }

    #[test]
    fn hostile_packets_get_an_error_or_nothing() {
        let (directory, viewer) = world();
        let whole = question("web.", RecordType::A);
        for length in 0..whole.len() {
            match decide(&whole[..length], &directory, &viewer, 0) {
                Decision::Ignore => assert!(length < 12),
                Decision::Answer(answer) => {
                    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
                }
                Decision::Forward(_) => panic!("a part of {length} bytes was forwarded"),
            }
        }
        let mut response = whole.clone();
        response[2] |= 0x80;
        assert!(matches!(
            decide(&response, &directory, &viewer, 0),
            Decision::Ignore
        ));
        // A name that points at itself.
        let mut looped = whole;
        looped.truncate(12);
        looped.extend([0xc0, 12, 0, 1, 0, 1]);
        assert!(matches!(
            decide(&looped, &directory, &viewer, 0),
            Decision::Answer(_)
        ));
    }

    #[test]
    fn long_answers_by_udp_ask_for_tcp() {
        let (mut directory, viewer) = world();
        for number in 0..200_u8 {
            let endpoint = EndpointNames {
                network_name: "blue".to_owned(),
                names: vec!["many".to_owned()],
                addresses: vec![IpAddr::from([10, 0, 1, number])],
            };
            directory.set("1", &format!("c{number}"), endpoint);
        }
        let Decision::Answer(answer) = decide(&question("many.", RecordType::A), &directory, &viewer, 0)
        else {
            panic!("no answer");
        };
        let short = encode(&answer, UDP_BYTES_DEFAULT.into()).unwrap();
        assert!(short.len() <= usize::from(UDP_BYTES_DEFAULT) && short[2] & 2 != 0);
        assert_eq!(
            Message::from_vec(&encode(&answer, 65535).unwrap())
                .unwrap()
                .answers
                .len(),
            200
        );
    }
}
