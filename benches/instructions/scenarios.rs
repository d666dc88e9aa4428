//! What is counted. Every scenario is made once and then run again and again; each run handles the same frames.

use crate::node::Node;
use crate::traffic::{self, DOMAIN, Draw, READ_BYTES};
use jidmesh::route;
use jidmesh::table::SeatId;
use jidmesh::table::names::{Multi, Names};
use jidmesh::wire::header::{self, Frame};
use jidmesh::wire::scan::{Item, Limits, Scanner};
use jidmesh::wire::value::Value;
use std::hint::black_box;

/// Frames of one run, and the run.
pub(crate) struct Scenario {
    pub(crate) frames: usize,
    pub(crate) run: Box<dyn FnMut()>,
}

/// Makes a scenario.
pub(crate) type Make = fn() -> Scenario;

/// Names and makers. Sessions of the table: few enough to be made under an emulator.
pub(crate) const ALL: [(&str, Make); 16] = [
    ("scan-265", || scan(vec![traffic::pipe("a", "b", 265); 247], true)),
    ("scan-1024", || scan(vec![traffic::pipe("a", "b", 1024); 64], true)),
    ("scan-mixed", || scan(mixed(), true)),
    ("scan-mixed-checked", || scan(mixed(), false)),
    ("header-pipe", || header(vec![traffic::pipe("a", "b", 265)])),
    ("header-mixed", || header(mixed())),
    ("name", name),
    ("decide", decide),
    ("pipe-265", || pipe(1, 265, READ_BYTES)),
    ("pipe-1024", || pipe(1, 1024, READ_BYTES)),
    ("pipe-16384", || pipe(1, 16384, READ_BYTES)),
    ("pipe-265-cut", || pipe(1, 265, 16 << 10)),
    ("pipe-265-single", || pipe(1, 265, 265)),
    ("pipe-265-lanes", || pipe(2, 265, READ_BYTES)),
    ("users", || users(1)),
    ("users-lanes", || users(2)),
];

fn scan(frames: Vec<String>, trusted: bool) -> Scenario {
    let count = frames.len();
    let buffer = frames.concat().into_bytes();
    let mut scanner = Scanner::new(Limits {
        frame_bytes_max: 10 << 20,
        open_bytes_max: 4096,
        depth_max: 100,
    });
    let open = b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
    assert!(matches!(scanner.next(open), Ok(Some(Item::Open { .. }))));
    scanner.consume(open.len());
    scanner.trust(trusted);
    let run = move || {
        let mut found = 0;
        while let Ok(Some(Item::Frame { end, .. })) = scanner.next(black_box(&buffer)) {
            black_box(end);
            found += 1;
        }
        assert_eq!(found, count);
        scanner.consume(buffer.len());
    };
    Scenario {
        frames: count,
        run: Box::new(run),
    }
}

fn header(frames: Vec<String>) -> Scenario {
    let run = {
        let frames = frames.clone();
        move || {
            for frame in &frames {
                assert!(matches!(header::read(black_box(frame.as_bytes())), Ok(Frame::Route(_))));
            }
        }
    };
    Scenario {
        frames: frames.len(),
        run: Box::new(run),
    }
}

fn names() -> Names {
    let mut names = Names::new("jidmesh.router", &[]);
    for (slot, name) in ["a", "b", "sm1", "sm2", "c2s1", "c2s2", "conference.example.net", "s2s"]
        .iter()
        .enumerate()
    {
        names.bind(name, SeatId::new(u16::try_from(slot).unwrap_or(0) + 1, 0), Multi::No, 0);
    }
    names.bind(DOMAIN, SeatId::new(3, 0), Multi::To, 0);
    names
}

fn name() -> Scenario {
    let names = names();
    let run = move || {
        for name in ["b", "sm2", "c2s1", DOMAIN] {
            assert!(names.find(black_box(Value(name.as_bytes()))).is_some());
        }
    };
    Scenario {
        frames: 4,
        run: Box::new(run),
    }
}

fn decide() -> Scenario {
    let names = names();
    let frames = [traffic::pipe("a", "b", 265), traffic::sent("sm1", 4, 5, "x")];
    let run = move || {
        for frame in &frames {
            let Ok(Frame::Route(route)) = header::read(frame.as_bytes()) else {
                unreachable!("made above")
            };
            let Some(to) = route.to else { unreachable!("made above") };
            black_box(route::decide(black_box(&route), to, SeatId::new(3, 0), &names));
        }
    };
    Scenario {
        frames: 2,
        run: Box::new(run),
    }
}

/// Frames from one component to another, in reads of `read` bytes which end wherever they end.
fn pipe(shards: u16, bytes: usize, read: usize) -> Scenario {
    let mut node = Node::new(shards);
    let a = node.component(&["a", "*a.test"]);
    node.component(&["b", "*b.test"]);
    node.forget_output();
    let (buffer, frames) = traffic::pipe_read("a", "b", bytes);
    let run = move || {
        node.bytes_out = 0;
        for piece in buffer.chunks(read) {
            node.receive(a, black_box(piece));
        }
        assert_eq!(node.bytes_out, buffer.len() as u64);
    };
    Scenario {
        frames,
        run: Box::new(run),
    }
}

/// Sessions in the table.
const SESSIONS: u32 = 2_000;

/// Chat messages among users of two sm and two c2s, on so many shards: each from its c2s to sm, on to the recipient's sm, on to his c2s.
fn users(shards: u16) -> Scenario {
    let mut node = Node::new(shards);
    let sm = [
        node.component(&["sm1", "*example.net"]),
        node.component(&["sm2", "*example.net"]),
    ];
    let c2s = [node.component(&["c2s1"]), node.component(&["c2s2"])];
    let mut places = Vec::new();
    for client in 0..SESSIONS {
        let which = client as usize % 2;
        sm.iter().for_each(|sm| drop(node.take(*sm)));
        node.receive(c2s[which], traffic::start(["c2s1", "c2s2"][which], client).as_bytes());
        let asked = sm.map(|sm| !node.take(sm).is_empty());
        assert!(asked[0] != asked[1], "one sm is asked");
        let place = usize::from(asked[1]);
        let answer = traffic::started(["sm1", "sm2"][place], ["c2s1", "c2s2"][which], client);
        node.receive(sm[place], answer.as_bytes());
        places.push(place);
    }
    node.forget_output();
    let mut draw = Draw::new();
    let mut reads: [Vec<u8>; 4] = Default::default();
    let mut frames = 0;
    while reads.iter().all(|read| read.len() < READ_BYTES) {
        let (client, to, body) = (draw.below(SESSIONS), draw.below(SESSIONS), draw.body());
        let (from_c2s, to_c2s) = (client as usize % 2, to as usize % 2);
        let (from_sm, to_sm) = (places[client as usize], places[to as usize]);
        let (c2s, sm) = (["c2s1", "c2s2"], ["sm1", "sm2"]);
        reads[from_c2s].extend(traffic::said(c2s[from_c2s], sm[from_sm], client, to, &body).bytes());
        reads[2 + from_sm].extend(traffic::sent(sm[from_sm], client, to, &body).bytes());
        reads[2 + to_sm].extend(traffic::delivered(c2s[to_c2s], client, to, &body).bytes());
        frames += 3;
    }
    let bytes: usize = reads.iter().map(Vec::len).sum();
    let run = move || {
        node.bytes_out = 0;
        for (seat, read) in [c2s[0], c2s[1], sm[0], sm[1]].into_iter().zip(&reads) {
            node.receive(seat, black_box(read));
        }
        assert_eq!(node.bytes_out, bytes as u64);
    };
    Scenario {
        frames,
        run: Box::new(run),
    }
}

/// The frames of the traffic among users, of many lengths and forms.
fn mixed() -> Vec<String> {
    let mut draw = Draw::new();
    (0..40)
        .flat_map(|_| {
            let (client, to, body) = (draw.below(SESSIONS), draw.below(SESSIONS), draw.body());
            [
                traffic::said("c2s1", "sm1", client, to, &body),
                traffic::sent("sm1", client, to, &body),
                traffic::delivered("c2s2", client, to, &body),
            ]
        })
        .collect()
}
