//! The identity of a process towards the others of its App.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::super::protocol::{Hello, NodeCard, Program, Refusal, Role};
use crate::id::AppId;
use crate::runtime::Runtime;
use crate::transport::Endpoint;

/// The identity of this process. Its parts become known one after the other, and each is set once.
pub(super) struct Identity {
    program: Program,
    /// The runtime of the App that this process takes part in.
    runtime: OnceLock<Arc<Runtime>>,
    me: OnceLock<NodeCard>,
    /// The endpoint at which this process reaches the head.
    join: OnceLock<Endpoint>,
    /// The latest head that is known here.
    head: Mutex<KnownHead>,
}

/// A head of the App.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KnownHead {
    /// The number of times that a head has opened the journal; 0 without a journal.
    pub(super) epoch: u64,
    /// The number of its process; 0 if it is not known.
    pub(super) process: u64,
}

impl KnownHead {
    /// Returns the reason why another head must not be obeyed by a process that knows this one, if there is one.
    ///
    /// Two heads with one epoch have opened two copies of a journal, and neither knows what the other one did.
    pub(super) fn refusal_of(self, other: Self) -> Option<String> {
        let Self { epoch, process } = other;
        if epoch < self.epoch {
            return Some(format!(
                "it opened the journal of the App as number {epoch}, and this process knows a head with number {}",
                self.epoch
            ));
        }
        let is_another = process != self.process && process != 0 && self.process != 0;
        (epoch == self.epoch && epoch > 0 && is_another).then(|| {
            format!(
                "it opened a copy of the journal as number {epoch}, like the head that this process knows; end one of \
                 the two heads, and keep only one journal of an App in use"
            )
        })
    }
}

impl Identity {
    pub(super) fn new(program: Program) -> Self {
        Self {
            program,
            runtime: OnceLock::new(),
            me: OnceLock::new(),
            join: OnceLock::new(),
            head: Mutex::default(),
        }
    }

    pub(super) fn set_runtime(&self, runtime: Arc<Runtime>) {
        let _ = self.runtime.set(runtime);
    }

    pub(super) fn runtime(&self) -> Option<&Arc<Runtime>> {
        self.runtime.get()
    }

    /// Returns the App that this process takes part in.
    pub(super) fn app(&self) -> AppId {
        self.runtime().map_or(AppId::NONE, |runtime| runtime.app())
    }

    pub(super) fn set_me(&self, me: NodeCard) {
        let _ = self.me.set(me);
    }

    pub(super) fn me(&self) -> &NodeCard {
        self.me.get().expect("set before any session begins")
    }

    pub(super) fn set_join(&self, join: Endpoint) {
        let _ = self.join.set(join);
    }

    /// Records a head of the App, unless a later one is known.
    pub(super) fn set_head(&self, head: KnownHead) {
        let mut known = self.head.lock();
        if known.epoch <= head.epoch {
            *known = head;
        }
    }

    /// Returns the latest head that is known here; in the head itself, that head.
    pub(super) fn head(&self) -> KnownHead {
        *self.head.lock()
    }

    /// Returns the endpoint at which this process reaches the head; `None` in the head itself.
    pub(super) fn join(&self) -> Option<&Endpoint> {
        self.join.get()
    }

    /// Returns the greeting with which this process begins a session.
    pub(super) fn hello(&self, role: Role, app: Option<AppId>, session: u64) -> Hello {
        let KnownHead { epoch, process: head } = self.head();
        Hello {
            role,
            program: self.program.clone(),
            node: self.me().clone(),
            app,
            session,
            fresh: true,
            received: 0,
            waited_ms: 0,
            epoch,
            head,
        }
    }

    /// Returns a refusal if the dialing process does not belong to this App.
    pub(super) fn refusal_of(&self, hello: &Hello) -> Option<Refusal> {
        if let Some(difference) = self.program.difference(&hello.program) {
            let reason = format!(
                "the two are not the same program, seen from here: {difference}; \
                 run the same build on all machines"
            );
            return Some(Refusal::for_good(reason));
        }
        let another = hello.app.is_some_and(|app| app != self.app());
        if another {
            return Some(Refusal::lost("this is another run of the App".to_owned()));
        }
        // Nodes hear of a new head one after the other.
        let is_for_the_head = !matches!(hello.role, Role::Peer | Role::Puller);
        if !is_for_the_head || hello.app.is_none() {
            return None;
        }
        let KnownHead { epoch, .. } = self.head();
        let known = KnownHead { epoch: hello.epoch, process: hello.head };
        known.refusal_of(KnownHead { epoch, process: self.me().id })?;
        let name = &hello.node.name;
        let reason = match hello.epoch > epoch {
            true => format!(
                "a later head has replaced this one: this head opened the journal of the App as number {epoch}, \
                 and `{name}` knows number {}; end this head, and keep only one journal of an App in use",
                hello.epoch
            ),
            false => format!(
                "this head opened a copy of the journal of the App as number {epoch}, and `{name}` knows another head \
                 with that number; end one of the two heads, and keep only one journal of an App in use"
            ),
        };
        Some(Refusal { reason, epoch, outdated: true, ..Refusal::default() })
    }

    /// Returns the endpoints at which this process reaches another one of the App, which announces `announced`.
    pub(super) fn reach(&self, announced: &[Endpoint]) -> Vec<Endpoint> {
        match self.join() {
            Some(Endpoint::Tcp(join)) => {
                announced.iter().map(|endpoint| on_the_machine_of(join, endpoint)).collect()
            }
            _ => announced.to_vec(),
        }
    }
}

/// Replaces an unspecified address by the head's host. Only processes of the head's machine announce unspecified
/// addresses, and nodes know an address of that machine.
fn on_the_machine_of(head: &str, endpoint: &Endpoint) -> Endpoint {
    if let Endpoint::Tcp(address) = endpoint
        && let Some((host, _)) = head.rsplit_once(':')
        && let Some(port) = address.strip_prefix("0.0.0.0:").or_else(|| address.strip_prefix("[::]:"))
    {
        return Endpoint::Tcp(format!("{host}:{port}"));
    }
    endpoint.clone()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::unique;
    use crate::work::Resources;

    fn identity(version: &str, app: Option<AppId>) -> Identity {
        let program = Program { name: "app".to_owned(), version: version.to_owned(), works: BTreeMap::new() };
        let identity = Identity::new(program);
        identity.set_me(NodeCard {
            id: unique(),
            name: "n".to_owned(),
            labels: BTreeMap::new(),
            resources: Resources::default(),
            endpoints: Vec::new(),
            process: None,
            ends_in_ms: None,
            drain_before_ms: 0,
        });
        if let Some(app) = app {
            identity.set_runtime(Arc::new(Runtime::new(app)));
        }
        identity
    }

    /// A process of another build is refused for good, one of another run of the App may begin another session, and one
    /// that does not know the App yet is taken in.
    #[test]
    fn process_of_another_app_is_refused() {
        let head = identity("1", Some(AppId::next()));
        let refusal = |peer: &Identity, app| head.refusal_of(&peer.hello(Role::Node, app, 1));
        let peer = identity("1", None);
        assert!(refusal(&peer, None).is_none() && refusal(&peer, Some(head.app())).is_none());
        assert!(refusal(&peer, Some(AppId::next())).is_some_and(|refusal| refusal.lost));
        assert!(refusal(&identity("2", None), None).is_some_and(|refusal| !refusal.lost));
    }

    /// A head refuses a node that has seen a later one, and takes in those that have seen none, itself or an earlier one.
    #[test]
    fn head_of_lower_epoch_is_fenced() {
        let head = identity("1", Some(AppId::next()));
        head.set_head(KnownHead { epoch: 3, process: head.me().id });
        for (seen, is_refused) in [(0, false), (2, false), (3, false), (4, true)] {
            let node = identity("1", None);
            let process = if seen == 3 { head.me().id } else { unique() };
            node.set_head(KnownHead { epoch: seen, process });
            let refusal = |role| head.refusal_of(&node.hello(role, Some(head.app()), 1));
            let refused = refusal(Role::Node);
            assert_eq!(refused.as_ref().is_some_and(|refusal| refusal.outdated), is_refused, "{refused:?}");
            assert_eq!(refusal(Role::Drive).is_some(), is_refused);
            assert!(refusal(Role::Peer).is_none(), "nodes hear of a new head one after the other");
        }
    }

    /// A head with a copy of the journal is refused by nodes that know another one of the same epoch, by either side.
    #[test]
    fn head_of_equal_epoch_is_fenced() {
        let head = identity("1", Some(AppId::next()));
        let this = KnownHead { epoch: 3, process: head.me().id };
        head.set_head(this);
        let node = identity("1", None);
        let known = KnownHead { epoch: 3, process: unique() };
        node.set_head(known);
        let refused = head.refusal_of(&node.hello(Role::Node, Some(head.app()), 1));
        assert!(refused.as_ref().is_some_and(|refusal| refusal.outdated && !refusal.lost), "{refused:?}");
        assert!(node.head().refusal_of(this).is_some_and(|why| why.contains("copy")));
        assert_eq!(node.head().refusal_of(known), None);
        // A later one is obeyed, and from then on no other.
        let later = KnownHead { epoch: 4, process: unique() };
        assert_eq!(node.head().refusal_of(later), None);
        node.set_head(later);
        node.set_head(known);
        assert_eq!(node.head(), later);
        assert!(node.head().refusal_of(known).is_some());
        // Heads without a journal have no epochs.
        let without = |process| KnownHead { epoch: 0, process };
        assert_eq!(without(1).refusal_of(without(2)), None);
    }

    /// Unspecified addresses are those of the machine at which the head is reached; others stay as they are.
    #[test]
    fn unspecified_address_is_one_of_the_heads_machine() {
        let tcp = |address: &str| Endpoint::Tcp(address.to_owned());
        let announced = [tcp("0.0.0.0:7"), tcp("[::]:8"), tcp("10.0.0.1:9")];
        let node = identity("1", None);
        assert_eq!(node.reach(&announced), announced);
        node.set_join(tcp("head.example:7502"));
        let reached = [tcp("head.example:7"), tcp("head.example:8"), tcp("10.0.0.1:9")];
        assert_eq!(node.reach(&announced), reached);
    }
}
