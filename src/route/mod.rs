//! stub

pub mod filter;
