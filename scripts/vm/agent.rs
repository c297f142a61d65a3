//! The agent inside a test VM: runs scripts, moves files, and joins TCP connections to Unix sockets.
//!
//! One request per connection; the first line tells what it is:
//!
//! | line | then | answer |
//! |---|---|---|
//! | `RUN <seconds> <length>` | a shell script | `<exit code> <length>`, output |
//! | `PUT <path> <mode> <length>` | the file | `OK` |
//! | `SOCKET <path>` | the caller's bytes | the socket's bytes |
//! | `MOUNT <source> <target> <type>` | | microseconds of mount(2) |
//! | `LEAVE <target> <file>` | | microseconds of umount2(2) and of writing "1" to the file |
//!
//! Built by `scripts/vm/setup.sh` with rustc alone: standard library only.

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

fn main() -> io::Result<()> {
    let port = env::args().nth(1).unwrap_or_else(|| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("agent: {error}");
            }
        });
    }
    Ok(())
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["RUN", seconds, length] => {
            let script = body(&mut reader, length)?;
            run(&stream, number(seconds)?, &script)
        }
        ["PUT", path, mode, length] => {
            let data = body(&mut reader, length)?;
            put(&stream, path, mode, &data)
        }
        ["SOCKET", path] => join(reader, stream, path),
        ["MOUNT", source, target, kind] => timed(&stream, || mount_on(source, target, kind)),
        ["LEAVE", target, file] => timed(&stream, || {
            unmount(target)?;
            fs::write(file, "1")
        }),
        _ => writeln!(&stream, "ERROR unknown request"),
    }
}

/// The bare system calls, without a process around them: what a benchmark compares with.
fn timed(mut stream: &TcpStream, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let started = Instant::now();
    match work() {
        Ok(()) => writeln!(stream, "{}", started.elapsed().as_micros()),
        Err(error) => writeln!(stream, "ERROR {error}"),
    }
}

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
}

fn checked(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mount_on(source: &str, target: &str, kind: &str) -> io::Result<()> {
    let [source, target, kind] = [CString::new(source)?, CString::new(target)?, CString::new(kind)?];
    // SAFETY: all strings end with NUL and live until the call returns; no data is given.
    checked(unsafe { mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) })
}

fn unmount(target: &str) -> io::Result<()> {
    let target = CString::new(target)?;
    // SAFETY: the string ends with NUL and lives until the call returns.
    checked(unsafe { umount2(target.as_ptr(), 0) })
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is not a number")))
}

fn body(reader: &mut impl Read, length: &str) -> io::Result<Vec<u8>> {
    let mut data = vec![0; usize::try_from(number(length)?).map_err(io::Error::other)?];
    reader.read_exact(&mut data)?;
    Ok(data)
}

fn put(mut stream: &TcpStream, path: &str, mode: &str, data: &[u8]) -> io::Result<()> {
    let mode = u32::from_str_radix(mode, 8).map_err(io::Error::other)?;
    let part = format!("{path}.part");
    fs::write(&part, data)?;
    fs::set_permissions(&part, fs::Permissions::from_mode(mode))?;
    fs::rename(&part, path)?;
    writeln!(stream, "OK")
}

/// Output goes to a file, not a pipe: a daemon that the script leaves behind must not keep the answer back.
fn run(mut stream: &TcpStream, seconds: u64, script: &[u8]) -> io::Result<()> {
    let id = format!("{:?}", thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    let (script_path, output_path) = (format!("/tmp/run-{id}.sh"), format!("/tmp/run-{id}.out"));
    fs::write(&script_path, script)?;
    let output = fs::File::create(&output_path)?;
    let mut child = Command::new("/bin/sh")
        .arg(&script_path)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let code = loop {
        match child.try_wait()? {
            Some(status) => break status.code().unwrap_or(128),
            None if Instant::now() > end => {
                let group = format!("-{}", child.id());
                let _ = Command::new("/bin/kill").args(["-9", "--", &group]).status();
                break 124;
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    let output = fs::read(&output_path)?;
    let _ = (fs::remove_file(&script_path), fs::remove_file(&output_path));
    writeln!(stream, "{code} {}", output.len())?;
    stream.write_all(&output)
}

fn join(mut reader: BufReader<TcpStream>, stream: TcpStream, path: &str) -> io::Result<()> {
    let socket = UnixStream::connect(path)?;
    let ended = Arc::new(AtomicBool::new(false));
    let (mut from_socket, mut to_client) = (socket.try_clone()?, stream.try_clone()?);
    let flag = Arc::clone(&ended);
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from_socket, &mut to_client);
        flag.store(true, Ordering::SeqCst);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut to_socket = socket.try_clone()?;
    let _ = io::copy(&mut reader, &mut to_socket);
    let _ = socket.shutdown(Shutdown::Both);
    let _ = back.join();
    Ok(())
}
