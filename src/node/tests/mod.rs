//! The brain of one node, with its shards' lanes and links played by hand.
#![allow(clippy::unwrap_used)]

mod attack;
mod binding;
mod closed;
mod cluster;
mod drain;
mod express;
mod farewell;
mod grace;
mod limits;
mod names;
mod orphans;
mod placement;
mod question;
mod recovery;
mod redirect;
mod relay;
mod reload;
mod remains;
mod sample;
mod trace;
mod turns;
mod uplink;
mod world;
