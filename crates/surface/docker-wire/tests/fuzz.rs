//! Request lines from anyone.

use naru_docker_wire::{ApiVersion, Query, routes};
use naru_fuzz::feed_text;

#[test]
fn queries() {
    feed_text(
        &[
            "a=b&c=d%20e+f",
            "filters=%7B%22label%22%3A%5B%22x%3Dy%22%5D%7D&all=1",
            "t=5",
        ],
        |text| {
            let query = Query::parse(text);
            for key in ["a", "filters", "t", ""] {
                let _ = (query.get(key), query.flag(key));
            }
        },
    );
}

#[test]
fn paths() {
    let examples = [
        "/v1.41/containers/json",
        "/v1.24/images/a/b:c/json",
        "/_ping",
        "/v1.41/exec/x/start",
        "/v1.41/containers/%2e%2e/json",
    ];
    feed_text(&examples, |text| {
        for method in [hyper::Method::GET, hyper::Method::POST, hyper::Method::DELETE] {
            let _ = routes::find(&method, text);
        }
        let _ = text.parse::<ApiVersion>();
    });
}
