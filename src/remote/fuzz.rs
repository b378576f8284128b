//! What is fuzzed: everything that reads what a peer has sent.

use std::time::Duration;

use super::protocol::{Hello, Packet, Refusal, Welcome};
use super::session::{Session, SessionSettings};
use crate::wire::{self, Frame};

/// Frames, and a session that takes them.
pub fn frames(data: &[u8]) {
    let settings = SessionSettings::default();
    let mut session = Session::new(settings, Duration::ZERO);
    session.connect(0, Duration::ZERO).expect("it is new");
    let mut rest = data;
    while let Ok(Some((frame, length))) = Frame::first(rest, settings.max_frame) {
        rest = &rest[length..];
        let Ok(body) = session.receive(frame, Duration::ZERO) else { return };
        while session.transmit(Duration::ZERO).is_some() {}
        if let Some(body) = body {
            let _ = Packet::read(body);
        }
    }
}

/// Every message that a peer can send, and the greeting.
pub fn messages(data: &[u8]) {
    let _ = Packet::read(data);
    let mut control = vec![0];
    control.extend_from_slice(data);
    let _ = Packet::read(&control);
    let _ = wire::decode::<Hello>(data);
    let _ = wire::decode::<Welcome>(data);
    let _ = wire::decode::<Refusal>(data);
}
