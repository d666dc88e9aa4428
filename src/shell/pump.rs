//! The one task of a shard's executor: collect, decide, write, send, sleep.
//!
//! While there is traffic, the thread waits in the driver (cheap, and woken by anything that concerns the shard). After
//! a tick without any it goes to sleep in the executor, which wakes by the driver's descriptor or a timer. A
//! heartbeat bounds the harm of a wake-up that the runtime loses.
//!
//! A busy pump never gives the executor a pass, as no other task lives there. Whoever adds one must make the pump await
//! a short timer once a millisecond: yielding alone does not reach the runtime's reactor.

use super::brain::Brain;
use super::driver::Driver;
use super::hub::Hub;
use super::pace::Pace;
use super::sys::{self, Doorbell, Sleep};
use std::time::Duration;

/// The longest wait inside the driver.
const TICK: Duration = Duration::from_millis(1);
/// The longest sleep in the executor; costs 0.05 % of a CPU.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Runs the shard until it was stopped and has closed every link.
pub(crate) async fn pump<B: Brain, D: Driver>(hub: &mut Hub<B>, driver: &mut D, bell: &Doorbell, mut pace: Pace) {
    let mut idle = false;
    hub.after(driver);
    while !hub.ended() {
        let reads = hub.reads();
        if !driver.busy(reads)
            && let Some(pause) = pace.pause()
        {
            sys::pause(pause);
        }
        hub.begin_turn();
        if driver.busy(reads) {
            driver.turn(Duration::ZERO, reads, hub);
            idle = false;
        } else {
            bell.announce(if idle { Sleep::Executor } else { Sleep::Driver });
            let patience = if hub.quiet() {
                hub.patience(HEARTBEAT)
            } else {
                Duration::ZERO
            };
            if idle && !patience.is_zero() {
                driver.park(patience).await;
                idle = false;
                driver.turn(Duration::ZERO, reads, hub);
            } else {
                idle = !driver.turn(patience.min(TICK), reads, hub) && !patience.is_zero();
            }
            bell.awake();
        }
        let (waited, bytes) = hub.turn_brought();
        pace.turn(waited, bytes);
        hub.after(driver);
    }
}
