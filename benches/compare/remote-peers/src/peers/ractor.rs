//! ractor_cluster: an actor in a process group, which the other node discovers.

use std::time::{Duration, Instant};

use ::ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, call_t, pg};
use ractor_cluster::{NodeServer, RactorClusterMessage};

use crate::support::{Asks, PADDING, Server, free_port, on_one_thread, ready, tells};

const TELLS: u64 = 200_000;
const GROUP: &str = "echoes";
const PATIENCE_MS: u64 = 10_000;

#[derive(RactorClusterMessage)]
enum Message {
    #[rpc]
    Ask(u64, Vec<u8>, RpcReplyPort<Vec<u8>>),
    Tell(u64, Vec<u8>),
    #[rpc]
    Count(RpcReplyPort<u64>),
}

struct Echo;

impl Actor for Echo {
    type Msg = Message;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Message>, (): ()) -> Result<u64, ActorProcessingErr> {
        pg::join(GROUP.to_owned(), vec![myself.get_cell()]);
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        told: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ask(_, bytes, reply) => reply.send(bytes)?,
            Message::Tell(..) => *told += 1,
            Message::Count(reply) => reply.send(*told)?,
        }
        Ok(())
    }
}

async fn node(port: u16, name: &str) -> ActorRef<ractor_cluster::NodeServerMessage> {
    let node =
        NodeServer::new(port, "cookie".to_owned(), name.to_owned(), "localhost".to_owned(), None, None)
            .with_listen_addr([127, 0, 0, 1].into());
    Actor::spawn(None, node, ()).await.expect("it starts").0
}

pub fn serve(port: u16) {
    on_one_thread(async {
        let _node = node(port, "server").await;
        let _echo = Actor::spawn(None, Echo, ()).await.expect("it starts");
        ready();
        std::future::pending::<()>().await;
    });
}

pub fn call() {
    let server = Server::start("ractor_cluster");
    on_one_thread(async {
        let node = node(free_port(), "client").await;
        let address = format!("127.0.0.1:{}", server.port);
        ractor_cluster::client_connect(&node, address).await.expect("it listens");
        let echo: ActorRef<Message> = loop {
            match pg::get_members(&GROUP.to_owned()).pop() {
                Some(echo) => break echo.into(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let mut asks = Asks::default();
        while let Some(number) = asks.next() {
            call_t!(echo, Message::Ask, PATIENCE_MS, number, PADDING.to_vec()).expect("it answers");
            asks.answered();
        }
        let began = Instant::now();
        for number in 0..TELLS {
            echo.cast(Message::Tell(number, PADDING.to_vec())).expect("it lives");
            // Sending never waits; without a yield all messages would first accumulate in memory.
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let told = call_t!(echo, Message::Count, PATIENCE_MS).expect("it answers");
        assert_eq!(told, TELLS);
        tells(TELLS, began);
    });
}
