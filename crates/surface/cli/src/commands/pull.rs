//! Pulling an image that a container needs.

use crate::Session;
use crate::error::Result;
use crate::http::{Body, Query};
use crate::options::CreatePlan;
use crate::{progress, reference};

/// Pulls the image of a container to be; progress goes to standard error, which keeps the container's output clean.
pub fn pull_for_run(session: &Session, plan: &CreatePlan) -> Result<()> {
    let familiar = reference::familiar(&plan.image);
    let (name, tag) = reference::split_tag(&familiar);
    let path = Query::new("/images/create")
        .set("fromImage", name)
        .set_some("tag", tag)
        .set_some("platform", plan.platform.as_deref())
        .build();
    let response = session.client.send("POST", &path, Body::Empty)?;
    let mut sink = if plan.is_quiet {
        progress::Sink::Silent
    } else {
        progress::Sink::standard_error()
    };
    progress::show(response, &mut sink)
}
