//! SIGHUP in a mesh: peers and secrets that come and go.

use super::relay::{Net, peer};
use crate::config::Secret;

#[test]
fn a_peer_is_added_and_one_that_is_missing_is_given_up() {
    let mut net = Net::knowing(3, 2, &[(0, 2)], |_, _| false);
    net.run(2.0);
    assert_eq!(net.member(0, 1).0, "unknown");
    net.reload(0, |mesh| mesh.peers = vec![peer(1), peer(2)]);
    net.run(4.0);
    net.assert_members(0, 1, "ready", "");
    net.assert_members(1, 0, "ready", "");
    assert_eq!(net.mesh(0, 0).unreached.len(), 1, "the third cannot be reached");
    net.reload(0, |mesh| mesh.peers = Vec::new());
    net.run(2.0);
    assert!(net.mesh(0, 0).unreached.is_empty(), "nobody misses it any more");
    net.assert_members(0, 1, "ready", "");
    // It is dialled again once it is named again.
    net.cut.clear();
    net.run(4.0);
    assert_eq!(net.member(0, 2).0, "unknown");
    net.reload(0, |mesh| mesh.peers = vec![peer(2)]);
    net.run(4.0);
    net.assert_members(0, 2, "ready", "");
}

#[test]
fn the_secret_is_changed_one_node_after_the_other_and_nobody_is_lost() {
    let secret = |text: &str| Secret(text.into());
    let (old, new) = (secret("a secret of the tests"), secret("another one of the tests"));
    let steps = [vec![old.clone(), new.clone()], vec![new.clone(), old], vec![new]];
    let mut net = Net::new(3, 2, &[]);
    net.run(3.0);
    for secrets in steps {
        // The third hears of nothing.
        for node in [0, 1] {
            net.reload(node, |mesh| mesh.secrets = secrets.clone());
            // Connections that stand go on; those made now have to agree as well.
            net.cut = vec![(0, 1)];
            net.run(3.0);
            net.cut.clear();
            net.run(4.0);
            net.assert_members(0, 1, "ready", "");
            net.assert_members(1, 0, "ready", "");
        }
    }
    net.assert_members(0, 2, "ready", "");
    net.cut = vec![(0, 2), (1, 2)];
    net.run(15.0);
    net.cut.clear();
    net.run(8.0);
    assert_ne!(
        net.member(0, 2).0,
        "ready",
        "who has the old secret only is a stranger now"
    );
}
