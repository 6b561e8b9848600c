//! The first oracle: compares what a client sent with what it got back.
//!
//! Every message has its client, its number and a checksum of the rest. The verdict is empty if no
//! message was lost, doubled, reordered, changed or given to another client.

use tokio_tungstenite::tungstenite::Message;

pub struct Ledger {
    client: u32,
    sent: u32,
    next: u32,
    complaints: Vec<String>,
}

impl Ledger {
    pub fn new(client: u32) -> Self {
        Self { client, sent: 0, next: 0, complaints: Vec::new() }
    }

    /// Returns the next message of this client, with a payload of this size.
    pub fn message(&mut self, size: usize) -> Message {
        let number = self.sent;
        self.sent += 1;
        let payload: Vec<u8> =
            (0..size).map(|at| (at as u32).wrapping_mul(31).wrapping_add(number) as u8).collect();
        let mut bytes =
            [self.client.to_be_bytes(), number.to_be_bytes(), checksum(&payload).to_be_bytes()]
                .concat();
        bytes.extend(payload);
        Message::binary(bytes)
    }

    pub fn receive(&mut self, message: &Message) {
        let Message::Binary(bytes) = message else {
            return self.complaints.push(format!("not a message of ours: {message:?}"));
        };
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (client, number, sum) = (word(0), word(4), word(8));
        if client != self.client {
            self.complaints
                .push(format!("client {} got message {number} of client {client}", self.client));
        } else if number != self.next {
            self.complaints
                .push(format!("client {client} got message {number} instead of {}", self.next));
        } else if sum != checksum(&bytes[12..]) {
            self.complaints.push(format!("message {number} of client {client} was changed"));
        }
        self.next = number + 1;
    }

    pub fn verdict(mut self) -> Vec<String> {
        if self.next != self.sent {
            self.complaints.push(format!(
                "client {} sent {} messages and got {}",
                self.client, self.sent, self.next
            ));
        }
        self.complaints
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[test]
fn the_ledger_notices_every_kind_of_loss() {
    let messages =
        |ledger: &mut Ledger| -> Vec<Message> { (0..4).map(|_| ledger.message(10)).collect() };
    let judged = |order: &[usize]| {
        let mut ledger = Ledger::new(7);
        let sent = messages(&mut ledger);
        order.iter().for_each(|&at| ledger.receive(&sent[at]));
        ledger.verdict().len()
    };
    assert_eq!(judged(&[0, 1, 2, 3]), 0);
    for wrong in [&[0, 1, 2][..], &[0, 1, 1, 2, 3], &[0, 2, 1, 3], &[]] {
        assert!(judged(wrong) > 0, "{wrong:?}");
    }
    let mut ledger = Ledger::new(1);
    ledger.receive(&Ledger::new(2).message(3));
    assert!(!ledger.verdict().is_empty(), "another client's message");
}
