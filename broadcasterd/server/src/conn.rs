//! One connection's two tasks: the one that reads for as long as it lives, and the one that writes while its socket is
//! full. An idle connection costs one task and one registration for reading, and no buffer.

use crate::hub::{DESCRIPTOR_PAUSE, Hub, Read, Write};
use broadcaster_broker::ConnId;
use broadcaster_local::{Registration, Socket, register, register_again};
use broadcaster_protocol::Decoder;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use tokio::io::Interest;

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) socket: Rc<Socket>,
    pub(crate) decoder: RefCell<Decoder>,
    /// What the broker knows that the decoder holds.
    pub(crate) held_bytes: Cell<usize>,
    /// It has ended, and its number may be somebody else's by now.
    pub(crate) gone: Cell<bool>,
    /// The daemon stops: what was sent is read by [`Hub::read_what_was_sent`], and an end of stream is no news.
    pub(crate) draining: Cell<bool>,
}

impl Conn {
    /// The connection, and its registration for reading.
    pub(crate) fn new(id: ConnId, socket: Socket, decoder: Decoder) -> io::Result<(Self, Registration<Rc<Socket>>)> {
        let socket = Rc::new(socket);
        let readable = register(Rc::clone(&socket), Interest::READABLE)?;
        let conn = Self {
            id,
            socket,
            decoder: RefCell::new(decoder),
            held_bytes: Cell::new(0),
            gone: Cell::new(false),
            draining: Cell::new(false),
        };
        Ok((conn, readable))
    }
}

/// Reads from the connection until it ends.
pub(crate) async fn read_all(hub: Rc<RefCell<Hub>>, conn: Rc<Conn>, readable: Registration<Rc<Socket>>) {
    while let Ok(mut ready) = poll_fn(|cx| readable.poll_read_ready(cx)).await {
        loop {
            if conn.gone.get() || conn.draining.get() {
                return;
            }
            let read = hub.borrow_mut().read(&conn);
            match read {
                Read::Some => tokio::task::yield_now().await, // others, and full sockets, get their turn
                Read::All => break ready.clear_ready(),
                Read::End => return hub.borrow_mut().end(&conn),
            }
        }
    }
    hub.borrow_mut().end(&conn);
}

/// Writes to a connection whose socket is full, until nothing is left.
pub(crate) async fn write_all(hub: Rc<RefCell<Hub>>, conn: Rc<Conn>) {
    let mut failing = false;
    let writable = loop {
        match register_again(&conn.socket, Interest::WRITABLE) {
            Ok(writable) => break writable,
            Err(error) => {
                // Once: it can last.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(conn = conn.id.0, %error, "cannot wait for a slow listener; trying again every {DESCRIPTOR_PAUSE:?}");
                }
                tokio::time::sleep(DESCRIPTOR_PAUSE).await;
            }
        }
        if conn.gone.get() || hub.borrow_mut().write_on(conn.id) == Write::Done {
            return;
        }
    };
    while !conn.gone.get() {
        let Ok(mut ready) = writable.writable().await else { return };
        if conn.gone.get() {
            return;
        }
        let wrote = hub.borrow_mut().write_on(conn.id);
        match wrote {
            Write::Done => return,
            Write::Blocked => ready.clear_ready(),
        }
    }
}
