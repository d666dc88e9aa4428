//! What travels between the shards of one node.

/// A frame on its way to another shard.
#[derive(Debug)]
pub(super) struct LaneFrame {}

/// A message of the control lane: names, registrations, placements. Handled before any data of the same turn.
#[derive(Debug)]
pub struct Control {}
