//! Image references as people write them. Pure.

/// The form Docker shows: without the default registry, with a tag where neither tag nor digest is given.
pub fn familiar(reference: &str) -> String {
    let short = reference.strip_prefix("docker.io/").unwrap_or(reference);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let (_, tag) = split_tag(short);
    if tag.is_some() {
        short.to_owned()
    } else {
        format!("{short}:latest")
    }
}

/// Name, and tag or digest.
pub fn split_tag(reference: &str) -> (&str, Option<&str>) {
    if let Some((name, digest)) = reference.split_once('@') {
        return (name, Some(digest));
    }
    let after_slash = reference.rfind('/').map_or(0, |at| at + 1);
    match reference[after_slash..].rfind(':') {
        Some(at) => (
            &reference[..after_slash + at],
            Some(&reference[after_slash + at + 1..]),
        ),
        None => (reference, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_shown_as_docker_shows_them() {
        assert_eq!(familiar("busybox"), "busybox:latest");
        assert_eq!(familiar("docker.io/library/busybox:1"), "busybox:1");
        assert_eq!(familiar("localhost:5000/x"), "localhost:5000/x:latest");
        assert_eq!(familiar("x@sha256:00"), "x@sha256:00");
        assert_eq!(split_tag("localhost:5000/x:t"), ("localhost:5000/x", Some("t")));
    }
}
