//! Configuration: jabberd2's own files (`router.xml`, users, filter) plus the sections of jidmesh.
//!
//! Invariants: what is in [`Config`] is valid and complete, so nobody checks it again; every
//! problem names file and line, what was found and what would be right; all problems are
//! reported, not only the first; an unknown setting is a warning. Only `load` touches the disk.
//! Must never be added: sockets, the runtime, anything that changes while jidmesh runs.

mod access;
mod acl;
mod attached;
pub mod ciphers;
mod compare;
mod components;
mod describe;
mod difference;
mod digest;
pub mod filter;
mod glob;
mod load;
mod mesh;
mod model;
mod neighbours;
mod pem;
mod problem;
mod read;
mod sections;
mod tree;
mod tuning;

pub use access::{Access, Network, Order};
pub use acl::Acl;
pub use compare::Machine;
pub use filter::{Filter, Rule};
pub use glob::Glob;
pub use model::*;
pub use pem::decrypt_key;
pub use problem::{Problem, Severity};
pub use tuning::{Basis, Cpus, DriverKind, PROFILES, Shards, Tuning, cpu_list, cpu_text, parse_profile};
