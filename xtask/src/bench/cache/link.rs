//! [`Link`]: a relay on the loopback that lets so many bytes a second through, over all connections together.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that are let through at once.
const PIECE_BYTES: usize = 64 << 10;
/// How far the link may catch up with what it could have sent while this machine was busy.
const CATCH_UP: Duration = Duration::from_millis(5);

/// A relay to one server; ends when dropped, its connections with their ends.
pub struct Link {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Link {
    /// Relays to `server`, with `bytes_a_second` for what it answers.
    pub fn start(server: SocketAddr, bytes_a_second: f64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, stopped) = (listener.local_addr()?, Arc::<AtomicBool>::default());
        let pace = Arc::new(Pace { bytes_a_second, next: Mutex::new(Instant::now()) });
        let stop = Arc::clone(&stopped);
        let acceptor = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                if let Err(error) = relay(client, server, &pace) {
                    eprintln!("bench: the link: {error}");
                }
            }
        });
        Ok(Self { address, stopped, acceptor: Some(acceptor) })
    }

    /// Where the server is reached through the link.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn relay(client: TcpStream, server: SocketAddr, pace: &Arc<Pace>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let (mut asks, mut asked) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asks, &mut asked);
        let _ = asked.shutdown(std::net::Shutdown::Both);
    });
    let pace = Arc::clone(pace);
    // Whoever hangs up ends it.
    thread::spawn(move || pace.answer(server, &client));
    Ok(())
}

/// When the next piece may go.
struct Pace {
    bytes_a_second: f64,
    next: Mutex<Instant>,
}

impl Pace {
    fn answer(&self, mut from: TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let len = from.read(&mut buffer)?;
            if len == 0 {
                return to.shutdown(std::net::Shutdown::Both);
            }
            thread::sleep(self.turn(len).saturating_duration_since(Instant::now()));
            to.write_all(&buffer[..len])?;
        }
    }

    /// When `len` bytes may go: when those before them have.
    fn turn(&self, len: usize) -> Instant {
        let takes = Duration::from_secs_f64(len as f64 / self.bytes_a_second);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = Instant::now().checked_sub(CATCH_UP).unwrap_or(*next);
        *next = (*next).max(earliest) + takes;
        *next
    }
}
