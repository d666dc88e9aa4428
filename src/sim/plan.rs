//! What a seed plays: the size of the site and which faults may strike it.

use super::rng::Rng;
use crate::node::api::Micros;
use crate::table::ShardId;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The link breaks; the component comes back within the grace period.
    Cut,
    /// The link breaks and stays broken beyond the grace period.
    LongCut,
    /// The process is killed and back within the grace period.
    Restart,
    /// The process is killed and back after the grace period.
    LateRestart,
    /// The process is asked to stop, and does so in order; started again later.
    Stop,
    /// The process does nothing for a while, shorter than anybody's patience.
    Freeze,
    /// The same, for longer than a fence is waited for.
    LongFreeze,
    /// One shard does nothing for a while.
    FreezeShard,
    /// Somebody else wants the component's name.
    Impostor,
    /// An sm is killed and does not come back (only where there is another).
    Gone,
}

const FAULTS: [Fault; 10] = [
    Fault::Cut,
    Fault::LongCut,
    Fault::Restart,
    Fault::LateRestart,
    Fault::Stop,
    Fault::Freeze,
    Fault::LongFreeze,
    Fault::FreezeShard,
    Fault::Impostor,
    Fault::Gone,
];

/// A kind of fault of a whole node, or between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeFault {
    /// The nodes fall into two groups that hear nothing of each other.
    Partition,
    /// One node is not heard by another, but hears it.
    Deaf,
    /// One node is not heard by anybody.
    Mute,
    /// Nothing crosses one connection, though others between the same nodes work.
    Clog,
    /// All connections between two nodes are reset.
    Reset,
    /// A machine is gone without a word.
    Silence,
    /// All processes of a machine are killed.
    Crash,
    /// The router alone is killed, and started again at once.
    RouterRestart,
    /// The router alone is killed, and started again after the grace period.
    LateRouterRestart,
    /// The router does nothing for a while.
    Pause,
}

const NODE_FAULTS: [NodeFault; 10] = [
    NodeFault::Partition,
    NodeFault::Deaf,
    NodeFault::Mute,
    NodeFault::Clog,
    NodeFault::Reset,
    NodeFault::Silence,
    NodeFault::Crash,
    NodeFault::RouterRestart,
    NodeFault::LateRouterRestart,
    NodeFault::Pause,
];

/// What a run with several nodes has beside.
#[derive(Clone, Debug, Default)]
pub(super) struct MeshPlan {
    /// Longest usual delay between two nodes, microseconds.
    pub(super) usual_us: Micros,
    /// Bytes that a connection between two nodes takes before the writer must wait.
    pub(super) window: usize,
    /// Every node is configured with all others; else only with the next one.
    pub(super) full: bool,
    /// Users are placed by hash, not near.
    pub(super) spread: bool,
    pub(super) faults: Vec<NodeFault>,
    pub(super) faults_per_round: u64,
}

impl MeshPlan {
    fn of(seed: u64) -> MeshPlan {
        let mut rng = Rng::new(seed.wrapping_mul(5) + 2);
        let faults: Vec<NodeFault> = match rng.below(3) {
            0 => Vec::new(),
            1 => vec![NODE_FAULTS[rng.index(NODE_FAULTS.len())]],
            _ => NODE_FAULTS.into_iter().filter(|_| rng.chance(40)).collect(),
        };
        MeshPlan {
            usual_us: [100, 1_000, 20_000][rng.index(3)],
            window: [4_096, 65_536, 1 << 20][rng.index(3)],
            full: true,
            spread: rng.chance(30),
            faults_per_round: rng.between(1, 4),
            faults,
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed it was made from.
    pub seed: u64,
    pub(super) nodes: usize,
    pub(super) shards: ShardId,
    pub(super) sms: usize,
    pub(super) c2ss: usize,
    pub(super) users: usize,
    pub(super) resources: usize,
    /// Equal priorities: a message to a bare JID goes to all resources.
    pub(super) equal: bool,
    pub(super) rounds: usize,
    /// Length of a round's busy part.
    pub(super) busy_us: Micros,
    /// Mean time between two actions of one person.
    pub(super) pause_us: Micros,
    /// Longest service of one frame by an sm.
    pub(super) service_us: Micros,
    /// Between reading and deleting an offline queue.
    pub(super) gap_us: Micros,
    /// Batches that fit into a lane.
    pub(super) lane_batches: usize,
    /// Bytes that a connection takes before the writer must wait.
    pub(super) window: usize,
    /// Longest usual delay of a lane or a link.
    pub(super) delay_us: Micros,
    pub(super) faults: Vec<Fault>,
    pub(super) mesh: MeshPlan,
    pub(super) faults_per_round: u64,
    pub(super) take_overs_per_round: u64,
    /// Components ask for redirects, and follow them now and then.
    pub(super) redirects: bool,
}

impl Plan {
    /// Routers give way to other processes while this is played.
    pub(super) fn with_take_overs(mut self) -> Plan {
        let mut rng = Rng::new(self.seed.wrapping_mul(7) + 3);
        self.take_overs_per_round = rng.between(1, 12);
        self
    }

    /// Components use redirects while this is played.
    pub(super) fn with_redirects(mut self) -> Plan {
        self.redirects = true;
        self
    }

    /// The plan of a seed for so many nodes.
    pub fn of(seed: u64, nodes: usize) -> Plan {
        let mut rng = Rng::new(seed);
        let faults: Vec<Fault> = match rng.below(4) {
            0 => Vec::new(),
            1 => vec![FAULTS[rng.index(FAULTS.len())]],
            _ => FAULTS.into_iter().filter(|_| rng.chance(40)).collect(),
        };
        let plan = Plan {
            seed,
            nodes,
            shards: rng.between(1, 4) as ShardId,
            sms: [1, 1, 2, 2, 3][rng.index(5)],
            c2ss: rng.between(1, 3) as usize,
            users: rng.between(2, 5) as usize,
            resources: rng.between(1, 2) as usize,
            equal: rng.chance(20),
            rounds: rng.between(1, 3) as usize,
            busy_us: rng.between(2, 30) * 1_000_000,
            pause_us: [20_000, 200_000, 1_000_000][rng.index(3)],
            service_us: [100, 2_000, 20_000][rng.index(3)],
            gap_us: [50, 5_000, 40_000][rng.index(3)],
            lane_batches: [1, 2, 64][rng.index(3)],
            window: [600, 8_192, 1 << 20][rng.index(3)],
            delay_us: [20, 500, 5_000][rng.index(3)],
            faults_per_round: rng.between(1, 6),
            faults,
            take_overs_per_round: 0,
            redirects: false,
            mesh: MeshPlan::default(),
        };
        match nodes {
            1 => plan,
            _ => plan.spread_out(),
        }
    }

    /// The same for several nodes.
    fn spread_out(mut self) -> Plan {
        self.mesh = MeshPlan::of(self.seed);
        self.users += 3;
        // There are enough of them.
        self.sms = self.sms.min(2);
        self.c2ss = self.c2ss.min(2);
        if self.nodes > 8 {
            (self.sms, self.c2ss) = (1, 1);
        }
        self
    }

    /// Components of a node.
    pub(super) fn parts(&self) -> usize {
        self.sms + self.c2ss + if self.nodes == 1 { 1 } else { 2 }
    }
}
