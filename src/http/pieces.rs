//! Large responses, sent in pieces.
//!
//! The server copies each piece of a body into the write buffer of its connection. A body in a single piece would
//! therefore be in memory twice, and once more for each further client. In pieces of [`PIECE`] bytes a client adds
//! little, as long as all clients share the same bytes.
//!
//! # Guarantees
//! - All responses in flight together, including those to clients that read slowly or not at all, occupy no more than
//!   [`MOST`] bytes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use bytes::Bytes;
use parking_lot::Mutex;

use super::problem::Problem;

/// The number of bytes handed to a connection at a time.
pub(super) const PIECE: usize = 16 * 1024;

/// Smaller responses are sent in one piece and not counted against [`MOST`].
const LARGE: usize = 64 * 1024;

/// The limit on the bytes of all large responses in flight.
const MOST: usize = 256 << 20;

/// The large responses in flight, keyed by the address of their bytes: the number of clients that each is sent to, and
/// its length.
#[derive(Default)]
pub(super) struct OnTheWay(Mutex<HashMap<usize, (usize, usize)>>);

impl OnTheWay {
    /// Reserves room for a response; `None` when the limit [`MOST`] is reached.
    fn take(self: &Arc<Self>, bytes: Bytes) -> Option<Pieces> {
        let mut answers = self.0.lock();
        let place = bytes.as_ptr() as usize;
        let taken: usize = answers.values().map(|(_, length)| length).sum();
        // A single response is admitted whatever its size.
        if !answers.is_empty() && !answers.contains_key(&place) && taken + bytes.len() > MOST {
            return None;
        }
        answers.entry(place).or_insert((0, bytes.len())).0 += 1;
        drop(answers);
        Some(Pieces { left: bytes, place, on_the_way: self.clone() })
    }
}

/// The body of a response in flight; its reservation is released on drop.
struct Pieces {
    left: Bytes,
    place: usize,
    on_the_way: Arc<OnTheWay>,
}

impl MessageBody for Pieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let length = self.left.len().min(PIECE);
        Poll::Ready((length > 0).then(|| Ok(self.left.split_to(length))))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let mut answers = self.on_the_way.0.lock();
        let Some((clients, _)) = answers.get_mut(&self.place) else { return };
        *clients -= 1;
        if *clients == 0 {
            answers.remove(&self.place);
        }
    }
}

/// Middleware that sends large responses in pieces, and answers 503 when too much is in flight.
pub(super) async fn in_pieces<B: MessageBody + 'static>(
    on_the_way: web::Data<OnTheWay>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let response = next.call(request).await?;
    if !matches!(response.response().body().size(), BodySize::Sized(length) if length >= LARGE as u64) {
        return Ok(response.map_into_left_body());
    }
    let (request, response) = response.into_parts();
    let (head, body) = response.into_parts();
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        Err(body) => return Ok(ServiceResponse::new(request, head.set_body(body)).map_into_left_body()),
    };
    let response = match on_the_way.into_inner().take(bytes) {
        Some(pieces) => head.set_body(BoxBody::new(pieces)),
        None => {
            let detail = format!(
                "responses of {MOST} bytes are in flight to clients that are slow to read; try again later"
            );
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
            problem.with(header::RETRY_AFTER, "1").at(&request).respond()
        }
    };
    Ok(ServiceResponse::new(request, response).map_into_right_body())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Responses with the same bytes count once, others add up to the limit, and a single response may exceed it.
    #[test]
    fn answers_on_their_way_are_bounded() {
        let on_the_way = Arc::new(OnTheWay::default());
        let one = Bytes::from(vec![1; MOST + 1]);
        let first = on_the_way.take(one.clone()).expect("a single response is admitted");
        let again = on_the_way.take(one).expect("the same bytes are admitted again");
        let other = Bytes::from(vec![2; LARGE]);
        assert!(on_the_way.take(other.clone()).is_none());
        drop(first);
        assert!(on_the_way.take(other.clone()).is_none());
        drop(again);
        assert!(on_the_way.take(other).is_some());
        assert!(on_the_way.0.lock().is_empty());
    }
}
