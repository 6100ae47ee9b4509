//! A proxy on the loopback interface, whose connections all end at one server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy that answers the method `CONNECT`.
pub(crate) struct TestProxy {
    address: String,
    /// The servers that clients have asked for.
    targets: Arc<Mutex<Vec<String>>>,
}

impl TestProxy {
    /// A proxy that connects clients with `server`, whichever server they ask for.
    pub(crate) fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let targets: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&targets);
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let seen = Arc::clone(&seen);
                // Errors of clients that disconnect are ignored.
                thread::spawn(move || drop(connect(client.unwrap(), server, &seen)));
            }
        });
        Self { address, targets }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns and clears the servers that clients have asked for.
    pub(crate) fn take_targets(&self) -> Vec<String> {
        std::mem::take(&mut self.targets.lock().unwrap())
    }
}

/// Reads a request up to its empty line, and connects `client` with `server`.
fn connect(mut client: TcpStream, server: SocketAddr, targets: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    targets.lock().unwrap().push(target.to_owned());
    if method != "CONNECT" {
        return client.write_all(b"HTTP/1.1 405 Only CONNECT\r\nContent-Length: 0\r\n\r\n");
    }
    let mut server = TcpStream::connect(server)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    io::copy(&mut server, &mut client)?;
    Ok(())
}
