//! The plan that a seed determines. Pure, so that a seed always gives the same plan.

use std::time::Duration;

/// The grace period of a run.
pub(crate) const GRACE: Duration = Duration::from_millis(2_500);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);

/// SplitMix64. Implemented here, since a seed must give the same plan after an update of dependencies.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which must not be zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// True with this probability, in percent.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}

/// Everything that a seed determines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// True if processes authenticate with certificates. Bytes are corrupted only then: without TLS nothing protects
    /// messages from modification.
    pub(crate) tls: bool,
    /// True if nodes start before the head.
    pub(crate) nodes_first: bool,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) works: Vec<WorkPlan>,
    pub(crate) services: Vec<ServicePlan>,
    pub(crate) faults: Vec<Scheduled>,
    pub(crate) ending: Ending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) cpus: u32,
    /// True if its payloads are on a disk of a few MiB, with a small memory budget.
    pub(crate) small_disk: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkPlan {
    pub(crate) name: String,
    /// Placement as on the command line; empty for the default with needs.
    pub(crate) placement: String,
    pub(crate) cpus: u32,
    pub(crate) role: Role,
    pub(crate) mailbox: usize,
    /// Time after which the Flow starts it again when it was stopped.
    pub(crate) rest: Duration,
}

/// A service. Its versions follow each other at random; some of them never become ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePlan {
    pub(crate) name: String,
    /// Placement of each replica, as on the command line.
    pub(crate) placement: String,
    pub(crate) replicas: usize,
    /// Number of replicas beyond the wanted one during a rollout.
    pub(crate) extra: usize,
    pub(crate) in_flight: usize,
    /// True if a new version gives up the one that is rolled out.
    pub(crate) is_impatient: bool,
}

/// The continuous activity of a Work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// One long run that sends messages to others.
    Roam,
    /// No run: it answers.
    Serve,
    /// One short run after another, with numbers as inputs.
    Chores,
    /// No run: its handlers ask others of this role, which may ask it.
    Relay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Http,
    Terminate,
    Interrupt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// Time since the start of the faults.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// The route by which a command reaches the Flow of a Work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Http,
    Flow,
}

/// A fault. Nodes and Works are given by their index in the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The node is killed, and started again under the same name.
    KillNode {
        node: usize,
        back_after: Duration,
    },
    /// The node is asked to leave, and started again.
    LeaveNode {
        node: usize,
        back_after: Duration,
    },
    /// The node is stopped by SIGSTOP.
    StopNode {
        node: usize,
        lasts: Duration,
    },
    /// A fault of the network between a node and its head.
    Network {
        node: usize,
        weather: Weather,
        lasts: Duration,
    },
    /// A fault of the network between a node and the others that connect to it; its own connection to the head is not
    /// affected.
    Peers {
        node: usize,
        route: Route,
        lasts: Duration,
    },
    /// The next connections break after this many bytes, or one of their bytes is changed.
    Trap {
        node: usize,
        after: u64,
        flip: bool,
        times: u32,
    },
    /// A second node of the same name starts, while the first is stopped or not.
    Twin {
        node: usize,
        stop_first: bool,
        lasts: Duration,
    },
    /// The node is restarted with this limit on descriptors, and restarted without it later.
    FewDescriptors {
        node: usize,
        limit: u32,
        lasts: Duration,
    },
    /// The wall clock of a node jumps, in seconds.
    ClockStep {
        node: usize,
        by: i64,
    },
    KillHead {
        back_after: Duration,
    },
    StopHead {
        lasts: Duration,
    },
    /// The process of a Work is killed, this many times in a row.
    KillProcess {
        nth: usize,
        times: u32,
    },
    StopProcess {
        nth: usize,
        lasts: Duration,
    },
    Restart {
        work: usize,
        via: Via,
    },
    /// The Work is stopped; the Flow starts it again after its rest.
    Stop {
        work: usize,
        via: Via,
    },
    /// A Work joins under a name that may have been used before.
    Add {
        name: usize,
        placement: String,
    },
    Remove {
        name: usize,
    },
    /// All processors are busy.
    Starve {
        lasts: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Bytes do not arrive, and connections stay open.
    Hold,
    /// Connections are closed, and new ones as soon as they are accepted.
    Cut,
    /// Connections are reset, and new ones refused.
    Reject,
    /// Bytes are delayed by this many milliseconds.
    Delay(u32),
}

/// The treatment of packets to the address at which a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Packets are dropped.
    Blackhole,
    /// Senders get "no route to host".
    Unreachable,
    /// Senders get "administratively prohibited".
    Prohibit,
}

/// Number of Works that may be added during a run.
pub(crate) const EXTRAS: usize = 4;

/// First letter of the names of Works with the role [`Role::Relay`].
pub(crate) const RELAY: char = 'r';

/// Number of Works with the role [`Role::Relay`].
const RELAYS: usize = 5;

impl Plan {
    /// Makes the plan of a seed, with faults for `lasts`. Processes and Works do not depend on `lasts`.
    pub(crate) fn new(seed: u64, lasts: Duration) -> Self {
        let mut rng = Rng::new(seed);
        let count = rng.between(2, 5) as usize;
        let small_disk = rng.percent(40).then(|| rng.below(count as u64) as usize);
        let nodes: Vec<NodePlan> = (0..count)
            .map(|n| NodePlan {
                name: format!("n{n}"),
                // With at least two nodes each zone has one.
                zone: if n % 2 == 0 { "west" } else { "east" }.to_owned(),
                cpus: 4,
                small_disk: small_disk == Some(n),
            })
            .collect();
        let mut works = works(&mut rng, &nodes);
        let tls = rng.percent(40);
        let nodes_first = rng.percent(50);
        let ending = *rng.pick(&[Ending::Http, Ending::Terminate, Ending::Interrupt]);
        works.extend(relays(&mut rng, &nodes));
        let services = services(&mut rng, &nodes);
        let mut plan = Self { seed, tls, nodes_first, nodes, works, services, faults: Vec::new(), ending };
        plan.faults = faults(&mut Rng::new(seed ^ 0x6661_756c_7473), &plan, lasts);
        plan
    }
}

fn works(rng: &mut Rng, nodes: &[NodePlan]) -> Vec<WorkPlan> {
    let count = rng.between(26, 34);
    (0..count)
        .map(|n| {
            let node = &rng.pick(nodes).name;
            let zone = ["west", "east"][rng.below(2) as usize];
            let mut cpus = 0;
            // The first nine Works have one placement of each kind.
            let placement = match if n < 9 { n } else { rng.below(9) } {
                0 => "thread".to_owned(),
                1 => "pool".to_owned(),
                2 | 8 if n < 9 || rng.percent(50) => "process".to_owned(),
                3 | 8 => node.clone(),
                4 => format!("{node}/pool"),
                5 => format!("zone={zone}{}", if rng.percent(30) { "/pool" } else { "" }),
                6 => if rng.percent(30) { "*/pool" } else { "*" }.to_owned(),
                7 => {
                    cpus = 1;
                    String::new()
                }
                _ => node.clone(),
            };
            let role = match rng.below(10) {
                0..6 => Role::Roam,
                6..8 => Role::Serve,
                _ => Role::Chores,
            };
            WorkPlan {
                name: format!("w{n:02}"),
                placement,
                cpus,
                role,
                mailbox: *rng.pick(&[64, 64, 256, 1024]),
                rest: if rng.percent(40) { Duration::ZERO } else { rng.millis(200, 3_000) },
            }
        })
        .collect()
}

/// Returns a random place, as on the command line.
fn some_place(rng: &mut Rng, nodes: &[NodePlan]) -> String {
    let node = &rng.pick(nodes).name;
    match rng.below(7) {
        0 => "thread".to_owned(),
        1 => "pool".to_owned(),
        2 | 3 => "process".to_owned(),
        4 => node.clone(),
        5 => format!("{node}/pool"),
        _ => "*".to_owned(),
    }
}

fn relays(rng: &mut Rng, nodes: &[NodePlan]) -> Vec<WorkPlan> {
    let relay = |n| WorkPlan {
        name: format!("{RELAY}{n}"),
        placement: some_place(rng, nodes),
        cpus: 0,
        role: Role::Relay,
        // Room for all messages that it can get: a cycle through a full mailbox is not found.
        mailbox: 1024,
        rest: if rng.percent(40) { Duration::ZERO } else { rng.millis(200, 3_000) },
    };
    (0..RELAYS).map(relay).collect()
}

fn services(rng: &mut Rng, nodes: &[NodePlan]) -> Vec<ServicePlan> {
    let service = |n| ServicePlan {
        name: format!("s{n}"),
        placement: some_place(rng, nodes),
        replicas: rng.between(1, 4) as usize,
        extra: rng.between(1, 3) as usize,
        in_flight: *rng.pick(&[1, 1, 2, 8]),
        is_impatient: rng.percent(30),
    };
    (0..2).map(service).collect()
}

fn faults(rng: &mut Rng, plan: &Plan, lasts: Duration) -> Vec<Scheduled> {
    let mut faults = Vec::new();
    // A node has one fault at a time, and some time to recover, which may be too short.
    let mut free = vec![Duration::ZERO; plan.nodes.len()];
    let mut head_free = Duration::from_secs(3);
    let mut at = Duration::ZERO;
    let grace = GRACE.as_millis() as u64;
    loop {
        at += rng.millis(80, 900);
        if at >= lasts {
            return faults;
        }
        let left = (lasts - at).as_millis() as u64;
        // Short durations, some within the grace period, some beyond it, and a few long ones.
        let span = |rng: &mut Rng| {
            let span = match rng.below(10) {
                0..3 => rng.between(100, 500),
                3..6 => rng.between(500, grace - 300),
                6..9 => rng.between(grace + 500, grace + 3_500),
                _ => rng.between(grace + 3_500, 20_000),
            };
            Duration::from_millis(span.min(left.max(grace + 3_500)))
        };
        let node = rng.below(plan.nodes.len() as u64) as usize;
        let work = rng.below(plan.works.len() as u64) as usize;
        let kind = rng.below(100);
        let is_of_node = kind < 57;
        if is_of_node && free[node] > at {
            continue;
        }
        let mut takes = Duration::ZERO;
        let fault = match kind {
            0..9 => {
                let back_after = *rng.pick(&[0, 0, 300, 1_500, grace + 1_000]);
                takes = Duration::from_millis(back_after);
                Fault::KillNode { node, back_after: takes }
            }
            9..13 => {
                takes = rng.millis(0, 2_000);
                Fault::LeaveNode { node, back_after: takes }
            }
            13..21 => {
                takes = span(rng);
                Fault::StopNode { node, lasts: takes }
            }
            21..38 => {
                takes = span(rng);
                let weather = match rng.below(9) {
                    0..2 => Weather::Hold,
                    2..5 => Weather::Cut,
                    5..7 => Weather::Reject,
                    _ => Weather::Delay(rng.between(20, 600) as u32),
                };
                Fault::Network { node, weather, lasts: takes }
            }
            38..44 => {
                let after = rng.between(1, 20_000);
                Fault::Trap {
                    node,
                    after,
                    flip: plan.tls && rng.percent(50),
                    times: rng.between(1, 4) as u32,
                }
            }
            44..47 => {
                takes = rng.millis(500, 4_000);
                Fault::Twin { node, stop_first: rng.percent(60), lasts: takes }
            }
            47..50 => {
                takes = rng.millis(1_500, 4_000);
                Fault::FewDescriptors { node, limit: rng.between(24, 80) as u32, lasts: takes }
            }
            50..52 => Fault::ClockStep { node, by: *rng.pick(&[-86_400, -3_600, 3_600, 86_400]) },
            52..57 => {
                takes = span(rng);
                let route = *rng.pick(&[Route::Blackhole, Route::Unreachable, Route::Prohibit]);
                Fault::Peers { node, route, lasts: takes }
            }
            57..61 => {
                if head_free > at {
                    continue;
                }
                head_free = at + Duration::from_secs(12);
                if rng.percent(50) {
                    Fault::KillHead { back_after: rng.millis(0, 4_000) }
                } else {
                    Fault::StopHead { lasts: rng.millis(100, 6_000) }
                }
            }
            61..70 => Fault::KillProcess { nth: rng.below(16) as usize, times: *rng.pick(&[1, 1, 1, 5]) },
            70..73 => Fault::StopProcess { nth: rng.below(16) as usize, lasts: span(rng) },
            73..81 => Fault::Restart { work, via: *rng.pick(&[Via::Http, Via::Flow]) },
            81..90 => Fault::Stop { work, via: *rng.pick(&[Via::Http, Via::Flow]) },
            90..94 => {
                let placement = *rng.pick(&["thread", "pool", "process", "*", "*/pool", "zone=west"]);
                Fault::Add { name: rng.below(EXTRAS as u64) as usize, placement: placement.to_owned() }
            }
            94..98 => Fault::Remove { name: rng.below(EXTRAS as u64) as usize },
            _ => Fault::Starve { lasts: rng.millis(1_000, 4_000) },
        };
        if is_of_node {
            free[node] = at + takes + rng.millis(100, 2_500);
        }
        faults.push(Scheduled { at, fault });
    }
}

pub(crate) const TESTS: &[(&str, fn())] =
    &[("plan::a_seed_always_means_the_same", same), ("plan::seeds_have_all_kinds_of_faults", all_kinds)];

/// Processes and Works do not depend on the duration of the faults, and the faults are the same each time.
fn same() {
    for seed in 0..200 {
        let plan = Plan::new(seed, Duration::from_secs(60));
        assert_eq!(plan, Plan::new(seed, Duration::from_secs(60)));
        let other = Plan::new(seed, Duration::ZERO);
        assert_eq!((&plan.works, &plan.services), (&other.works, &other.services));
        assert!((2..=4).contains(&plan.nodes.len()) && plan.works.len() >= 26, "{plan:#?}");
        assert!(plan.faults.is_sorted_by_key(|fault| fault.at));
        let flips = plan.faults.iter().any(|fault| matches!(fault.fault, Fault::Trap { flip: true, .. }));
        assert!(plan.tls || !flips, "bytes are only changed where TLS notices");
    }
}

/// A few seeds contain each kind of fault.
fn all_kinds() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..20 {
        for scheduled in Plan::new(seed, Duration::from_secs(60)).faults {
            let text = format!("{:?}", scheduled.fault);
            kinds.insert(text.split([' ', '{']).next().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(kinds.len(), 18, "{kinds:?}");
}
