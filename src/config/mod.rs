//! Configuration: jabberd2's own files plus the sections of jidmesh.

/// Everything the configuration says.
#[derive(Clone, Debug)]
pub struct Config {}
