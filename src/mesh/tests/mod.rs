//! Connections and peers over a network that exists in memory only.
#![allow(clippy::unwrap_used)]

mod conn;
mod members;
mod net;
mod peer;

use super::conn::Local;
use crate::config::{Mesh, Secret};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

pub(crate) fn mesh_config(node: &str, secrets: &[&str]) -> Mesh {
    Mesh {
        node: node.to_owned(),
        local: vec!["0.0.0.0:5348".parse().unwrap()],
        cluster: "test".to_owned(),
        secrets: secrets.iter().map(|secret| Secret((*secret).to_owned())).collect(),
        plain_allowed: false,
        peers: Vec::new(),
        domains: Vec::new(),
        exit_pins: Vec::new(),
        exits: crate::config::ExitPolicy::First,
        names: Vec::new(),
    }
}

/// A node's identity; keys are derived once for each list of secrets.
pub(crate) fn local_with(mesh: &Mesh, incarnation: u64) -> Arc<Local> {
    static KEYS: OnceLock<Mutex<HashMap<String, Arc<Local>>>> = OnceLock::new();
    let secrets: Vec<&str> = mesh.secrets.iter().map(|secret| secret.0.as_str()).collect();
    let mut known = KEYS.get_or_init(Mutex::default).lock().unwrap();
    let keys = known
        .entry(secrets.join("|"))
        .or_insert_with(|| Arc::new(Local::new(mesh, 1, 0)));
    Arc::new(keys.with_hello(super::hello::Hello::of(mesh, incarnation, 7)))
}

pub(crate) fn local(node: &str, incarnation: u64) -> Arc<Local> {
    local_with(&mesh_config(node, &["a secret of the tests"]), incarnation)
}
