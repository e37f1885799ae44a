//! Names and documents from anywhere: read or refused, and what is read says the same when written again.

use naru_base::Digest;
use naru_fuzz::{feed, feed_text};
use naru_oci::{AnyReference, ImageConfig, ManifestDocument, Reference};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn references() {
    let with_digest = format!("registry.example:5000/a/b-c/d_e@{DIGEST}");
    let examples = [
        "debian",
        "debian:12",
        "docker.io/library/debian:latest",
        "localhost/x",
        "[::1]:5000/x:y",
        &with_digest,
        DIGEST,
    ];
    feed_text(&examples, |text| {
        let _ = AnyReference::parse(text);
        let Ok(reference) = Reference::parse(text) else {
            return;
        };
        let canonical = reference.to_string();
        assert_eq!(
            Reference::parse(&canonical).as_ref(),
            Ok(&reference),
            "{canonical}"
        );
        let familiar = reference.familiar();
        assert_eq!(Reference::parse(&familiar).as_ref(), Ok(&reference), "{familiar}");
        for part in [
            reference.domain(),
            reference.path(),
            reference.tag().unwrap_or_default(),
        ] {
            assert!(
                !part.contains("..") || !part.contains('/') || !part.contains("../"),
                "{part}"
            );
            assert!(!part.contains(['\0', '\n', ' ', '%', '?', '#', '\\']), "{part}");
        }
    });
}

#[test]
fn digests_name_one_plain_file() {
    feed_text(&[DIGEST, "sha512:00"], |text| {
        if let Ok(digest) = text.parse::<Digest>() {
            assert!(!digest.to_string().contains(['/', '.', '\0']), "{digest}");
        }
    });
}

#[test]
fn manifests_and_indexes() {
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{DIGEST}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{DIGEST}","size":32,"urls":["https://x"],"annotations":{{"a":"b"}}}}]}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{DIGEST}","size":7,"platform":{{"architecture":"amd64","os":"linux","variant":"v1","os.version":"1"}}}}]}}"#
    );
    feed(&[manifest.as_bytes(), index.as_bytes()], |bytes| {
        for expected in [None, Some("application/vnd.oci.image.index.v1+json")] {
            if let Ok(ManifestDocument::Index(index)) = ManifestDocument::parse(bytes, expected) {
                let _ = index.choose(&naru_oci::Platform::host());
            }
        }
    });
}

#[test]
fn image_configurations() {
    let whole = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2025-01-01T00:00:00Z","author":"x","config":{{"User":"1:2","ExposedPorts":{{"80/tcp":{{}}}},"Env":["A=b"],"Entrypoint":["/x"],"Cmd":["y"],"Volumes":{{"/v":{{}}}},"WorkingDir":"/w","Labels":{{"a":"b"}},"StopSignal":"TERM","Healthcheck":{{"Test":["CMD","x"],"Interval":1}}}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created":"2025-01-01T00:00:00Z","created_by":"x","empty_layer":true}}]}}"#
    );
    feed(
        &[whole.as_bytes(), b"{\"rootfs\":{\"diff_ids\":null}}"],
        |bytes| {
            let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) else {
                return;
            };
            let text = serde_json::to_vec(&config).unwrap();
            serde_json::from_slice::<ImageConfig>(&text).unwrap();
        },
    );
}
