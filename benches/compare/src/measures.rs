//! The measures: names, units and counts.

pub struct Measure {
    pub name: &'static str,
    pub unit: &'static str,
    /// Definition: the counted operation, and the begin and end of timing.
    pub doc: &'static str,
    /// Number of operations in a case.
    pub n: u64,
    /// Number of operations with `--quick`.
    pub quick: u64,
}

pub const MEASURES: &[Measure] = &[
    Measure {
        name: "tell-other-thread",
        unit: "ns/message",
        doc: "One producer sends n messages (a u64) to one actor on another thread. The clock runs \
              from before the first send until the actor has handled the last.",
        n: 2_000_000,
        quick: 200_000,
    },
    Measure {
        name: "tell-same-thread",
        unit: "ns/message",
        doc: "The same with producer and actor on one thread. Where sending never waits, the \
              producer yields each 1,000 messages (100 where that is faster) so that the actor runs.",
        n: 2_000_000,
        quick: 200_000,
    },
    Measure {
        name: "ask-same-thread",
        unit: "ns/round trip",
        doc: "n requests with a reply, one after the other, from a spawned caller on the actor's \
              thread: total time / n.",
        n: 200_000,
        quick: 20_000,
    },
    Measure {
        name: "ask-other-thread",
        unit: "ns/round trip",
        doc: "The same with the actor on another thread: each request is two wake-ups.",
        n: 50_000,
        quick: 5_000,
    },
    Measure {
        name: "spawn",
        unit: "ns/actor",
        doc: "n actors are started and sent one message each. The clock stops when all have \
              handled theirs.",
        n: 100_000,
        quick: 10_000,
    },
    Measure {
        name: "bytes-per-idle-actor",
        unit: "bytes/actor",
        doc: "The growth of the resident set over the same n actors, all alive and idle after \
              their message; each one's reference is counted in.",
        n: 100_000,
        quick: 10_000,
    },
    Measure {
        name: "bytes-per-remembered-run",
        unit: "bytes/run",
        doc: "Growth of the resident set while one Work of the pool runs n distinct inputs, one after the other, \
              divided by n: the status of each is remembered.",
        n: 400_000,
        quick: 20_000,
    },
    Measure {
        name: "wakeup",
        unit: "ns one way",
        doc: "Half the median round trip of n turns between two threads over a Mutex and a \
              Condvar: what the machine itself asks for waking a thread.",
        n: 20_000,
        quick: 2_000,
    },
    Measure {
        name: "wakeup-eventloop",
        unit: "ns one way",
        doc: "Half the median round trip of n turns between two tasks on two tokio current-thread \
              runtimes (all drivers enabled), each on its thread, over Notify.",
        n: 20_000,
        quick: 2_000,
    },
    Measure {
        name: "publish-react",
        unit: "ns, p50",
        doc: "From before a publish, by a Work on its own thread, to the beginning of the reaction that sees it; \
              both threads asleep before. The median of n, one after the other.",
        n: 20_000,
        quick: 2_000,
    },
    Measure {
        name: "publish-react-run",
        unit: "ns, p50",
        doc: "The same to the first line of the run of another Work, on its own thread, that the reaction asked for.",
        n: 20_000,
        quick: 2_000,
    },
    Measure {
        name: "publish-field",
        unit: "ns/publish",
        doc: "n publishes of a struct of five fields of which one changed, by a Work on its own thread, while the \
              Flow reacts to them conflated.",
        n: 2_000_000,
        quick: 200_000,
    },
    Measure {
        name: "publish-map-10",
        unit: "ns/publish",
        doc: "The same of one changed entry in a map of 10.",
        n: 200_000,
        quick: 20_000,
    },
    Measure {
        name: "publish-map-10000",
        unit: "ns/publish",
        doc: "The same of one changed entry in a map of 10,000.",
        n: 5_000,
        quick: 500,
    },
    Measure {
        name: "publish-react-map-10",
        unit: "ns, p50",
        doc: "publish-react, of one changed entry in a map of 10 that the reaction reads.",
        n: 5_000,
        quick: 500,
    },
    Measure {
        name: "publish-react-map-10000",
        unit: "ns, p50",
        doc: "publish-react, of one changed entry in a map of 10,000 that the reaction reads.",
        n: 2_000,
        quick: 200,
    },
    Measure {
        name: "idle-1000",
        unit: "CPU s/30 s",
        doc: "CPU seconds that a process with n idle parts spends in 30 s.",
        n: 1_000,
        quick: 100,
    },
    Measure {
        name: "idle-1000-reactions",
        unit: "reactions/30 s",
        doc: "The reactions that ran in those 30 s.",
        n: 1_000,
        quick: 100,
    },
];
