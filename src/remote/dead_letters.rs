//! Dead letters of nodes and processes of Works, on their way to the head. Each is sent at most once; see
//! [`DeadLetters`] for the bound.

use std::sync::Arc;

use super::link::Link;
use super::protocol::Control;
use crate::id::ActorPath;
use crate::work::{ByReason, DEAD_LETTERS_AT_ONCE, DeadLetter, DeadLetterSender, DeadLetters};

/// Sends dead letters to the head as long as the session lives.
pub(super) async fn send_dead_letters(letters: Arc<DeadLetters>, head: Arc<Link>) {
    while head.room().await {
        let Some((letters, omitted)) = letters.next().await else { return };
        head.control(&Control::DeadLetters { letters, omitted });
    }
}

/// Takes over the dead letters that a process of `node` has sent.
///
/// # Errors
/// The reason why they break the protocol.
pub(super) fn arrived(
    letters: &DeadLetters,
    node: &str,
    arrived: Vec<DeadLetter>,
    omitted: ByReason,
) -> Result<(), String> {
    let is_long = |path: &ActorPath| path.as_str().len() > ActorPath::LONGEST_FROM_AFAR;
    let is_wrong = |letter: &DeadLetter| {
        let sender = match &letter.sender {
            DeadLetterSender::Work(path) => is_long(path),
            DeadLetterSender::Outside | DeadLetterSender::Unknown => false,
        };
        sender || is_long(&letter.to)
    };
    if arrived.len() > DEAD_LETTERS_AT_ONCE || arrived.iter().any(is_wrong) {
        return Err("a node sent dead letters that are too many or too long".to_owned());
    }
    letters.arrived(node, arrived, omitted);
    Ok(())
}
