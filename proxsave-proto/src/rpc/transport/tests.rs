use super::*;
use crate::message::{CallError, ClientHello};
use crate::rpc::{Fd, HelperRequest, HelperResponse, MAX_FDS, exchange_preamble, pack, unpack};
use futures::{SinkExt, StreamExt};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Std;

type Text = Transport<String, String>;
type Fds = Transport<Vec<Fd>, Vec<Fd>>;
const QUICK: Limits = Limits { frame: Duration::from_millis(150), idle: Some(Duration::from_millis(300)) };

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// Sends bytes with this many descriptors, as a peer may that follows no rule.
fn send_raw(socket: &Std, bytes: &[u8], fds: usize) {
    let (end, _) = pipe();
    let fds = vec![end.as_fd(); fds];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

fn frame(payload: &[u8], fds: u8) -> Vec<u8> {
    [&u32::try_from(payload.len()).unwrap().to_le_bytes(), [fds].as_slice(), payload].concat()
}

/// What a receiver makes of one raw send, after which the peer stays connected and silent.
fn verdict(bytes: &[u8], fds: usize) -> Option<Result<Vec<Fd>, FrameError>> {
    let (near, far) = Std::pair().unwrap();
    run(async {
        let mut transport = Fds::new(near, QUICK).unwrap();
        if !bytes.is_empty() {
            send_raw(&far, bytes, fds);
        }
        let first = transport.next().await;
        if matches!(first, Some(Err(_))) {
            assert!(transport.next().await.is_none(), "a broken connection must end");
        }
        first
    })
}

#[test]
fn descriptors_travel_both_ways_and_stay_with_their_frames() {
    let (near, far) = Std::pair().unwrap();
    run(async {
        let (mut near, mut far) =
            (Fds::new(near, Limits::default()).unwrap(), Fds::new(far, Limits::default()).unwrap());
        for (from, to) in [(0, 1), (1, 0)] {
            let sides = [&mut near, &mut far];
            let mut ends = Vec::new();
            for round in 0..40u8 {
                // Frames of 0 to 3 descriptors queue up in the kernel behind each other.
                let (read, write): (Vec<_>, Vec<_>) = (0..round % 4).map(|_| pipe()).unzip();
                sides[from].send(write.into_iter().map(Fd::from).collect()).await.unwrap();
                ends.push(read);
            }
            for (round, read) in ends.into_iter().enumerate() {
                let got = sides[to].next().await.unwrap().unwrap();
                assert_eq!(got.len(), read.len());
                for (index, (fd, read)) in got.into_iter().zip(read).enumerate() {
                    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
                    let mark = [u8::try_from(round).unwrap(), u8::try_from(index).unwrap()];
                    rustix::io::write(fd, &mark).unwrap();
                    let mut back = [0; 3];
                    assert_eq!(rustix::io::read(read, &mut back).unwrap(), 2);
                    assert_eq!(back[..2], mark);
                }
            }
        }
    });
}

#[test]
fn large_messages_and_the_end_arrive_whole() {
    let (near, far) = Std::pair().unwrap();
    run(async {
        let mut near = Text::new(near, QUICK).unwrap();
        let mut far = Text::new(far, QUICK).unwrap();
        let text = "x".repeat(MAX_FRAME - 3);
        let (sent, got) = futures::join!(near.send(text.clone()), far.next());
        sent.unwrap();
        assert_eq!(got.unwrap().unwrap(), text);
        assert!(matches!(near.send("x".repeat(MAX_FRAME)).await, Err(FrameError::TooLarge(_))));
        near.send("still usable".to_owned()).await.unwrap();
        near.close().await.unwrap();
        assert_eq!(far.next().await.unwrap().unwrap(), "still usable");
        assert!(far.next().await.is_none());
    });
}

#[test]
fn what_breaks_the_rules_is_told_apart() {
    let empty = frame(&[0], 0);
    assert!(matches!(verdict(&empty, 0), Some(Ok(fds)) if fds.is_empty()));
    assert!(matches!(verdict(&frame(&[1, 0], 1), 1), Some(Ok(fds)) if fds.len() == 1));
    // Lengths and counts.
    let over = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes();
    assert!(matches!(verdict(&[&over[..], &[0]].concat(), 0), Some(Err(FrameError::TooLarge(_)))));
    assert!(matches!(verdict(b"GET / HTTP/1.1\r\n\r\n", 0), Some(Err(FrameError::TooLarge(_)))));
    assert!(matches!(verdict(&frame(&[], 0), 0), Some(Err(FrameError::Empty))));
    assert!(matches!(verdict(&frame(&[0], 5), 0), Some(Err(FrameError::TooManyFds(5)))));
    // Descriptors that are missing, unused, too many, or ahead of their frame.
    assert!(matches!(verdict(&frame(&[1, 0], 1), 0), Some(Err(FrameError::MissingFds { announced: 1, came: 0 }))));
    assert!(matches!(verdict(&frame(&[0], 1), 1), Some(Err(FrameError::UnusedFds { count: 1 }))));
    assert!(matches!(verdict(&frame(&[2, 0, 0], 2), 2), Some(Err(FrameError::Decode(_)))));
    assert!(matches!(verdict(&empty[..5], 1), Some(Err(FrameError::UnusedFds { count: 1 }))));
    assert!(matches!(verdict(&empty[..1], MAX_FDS + 1), Some(Err(FrameError::TooManyFds(_)))));
    assert!(matches!(verdict(&empty, 16), Some(Err(FrameError::ControlTruncated))));
    // Bytes.
    assert!(matches!(verdict(&frame(&[0, 7], 0), 0), Some(Err(FrameError::TrailingBytes { count: 1 }))));
    assert!(matches!(verdict(&frame(&[0xff; 12], 0), 0), Some(Err(FrameError::Decode(_)))));
    // Half a header, half a payload, nothing at all.
    assert!(matches!(verdict(&empty[..3], 0), Some(Err(FrameError::Stalled(_)))));
    assert!(matches!(verdict(&empty[..5], 0), Some(Err(FrameError::Stalled(_)))));
    assert!(matches!(verdict(&[], 0), Some(Err(FrameError::Idle(_)))));
}

#[test]
fn a_frame_that_is_cut_off_is_no_message() {
    let (near, mut far) = Std::pair().unwrap();
    far.write_all(&frame(b"\x04text", 0)[..7]).unwrap();
    drop(far);
    let got = run(async { Text::new(near, QUICK).unwrap().next().await });
    assert!(matches!(got, Some(Err(FrameError::Cut))));
}

#[test]
fn a_byte_now_and_then_does_not_keep_a_frame_alive() {
    let (near, mut far) = Std::pair().unwrap();
    let drip = std::thread::spawn(move || {
        for byte in frame(&[b'x'; 200], 0) {
            std::thread::sleep(Duration::from_millis(20));
            if far.write_all(&[byte]).is_err() {
                return;
            }
        }
    });
    let begin = std::time::Instant::now();
    let got = run(async { Text::new(near, QUICK).unwrap().next().await });
    assert!(matches!(got, Some(Err(FrameError::Stalled(_)))));
    assert!(begin.elapsed() < Duration::from_secs(2));
    drip.join().unwrap();
}

#[test]
fn a_flood_is_taken_at_the_receivers_pace_and_one_that_never_reads_is_dropped() {
    let (near, mut far) = Std::pair().unwrap();
    let flood = std::thread::spawn(move || {
        let block = frame(b"\x03abc", 0).repeat(1000);
        let mut sent = 0;
        while sent < 50 {
            if far.write_all(&block).is_err() {
                break;
            }
            sent += 1;
        }
        sent
    });
    run(async {
        let mut near = Text::new(near, QUICK).unwrap();
        for _ in 0..10_000 {
            assert_eq!(near.next().await.unwrap().unwrap(), "abc");
            assert!(near.inbox.bytes_held() < 256 << 10);
        }
        // The peer reads nothing: sending to it must end, not hang.
        let mut error = None;
        for _ in 0..1000 {
            if let Err(found) = near.send("y".repeat(4096)).await {
                error = Some(found);
                break;
            }
        }
        assert!(matches!(error, Some(FrameError::Stalled(_))), "{error:?}");
    });
    assert!(flood.join().unwrap() < 50);
}

#[test]
fn descriptors_are_not_encoded_outside_frames() {
    let fd = Fd::from(pipe().0);
    assert!(postcard::to_stdvec(&fd).is_err());
    assert!(postcard::from_bytes::<Fd>(&[0]).is_err());
    assert!(pack(&vec![fd.clone(); MAX_FDS]).is_ok());
    assert!(pack(&vec![fd; MAX_FDS + 1]).is_err());
}

#[test]
fn refused_descriptors_are_closed() {
    let (read, write) = pipe();
    assert!(unpack::<u8>(&[0], vec![write]).is_err());
    assert_eq!(rustix::io::read(read, &mut [0; 1]).unwrap(), 0, "the writing end must be closed");
}

#[test]
fn preambles_are_exchanged_before_frames_and_strangers_are_refused() {
    let wait = Duration::from_millis(200);
    let (near, mut far) = Std::pair().unwrap();
    far.write_all(b"PROXSAVE\x01\0\x01\0\0\0\0\0rest").unwrap();
    assert_eq!(exchange_preamble(&near, wait).unwrap(), 1);
    let mut rest = [0; 4];
    (&near).read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"rest");
    let mut ours = [0; 16];
    far.read_exact(&mut ours).unwrap();
    assert_eq!(&ours, b"PROXSAVE\x01\0\x01\0\0\0\0\0");

    far.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(matches!(exchange_preamble(&near, wait), Err(FrameError::Preamble(_))));
    far.write_all(b"PROX").unwrap();
    assert!(matches!(exchange_preamble(&near, wait), Err(FrameError::Stalled(_))));
    drop(far);
    assert!(matches!(exchange_preamble(&near, wait), Err(FrameError::Cut | FrameError::Io(_))));
}

type Call = tarpc::ClientMessage<HelperRequest>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

#[test]
fn the_wire_is_as_documented() {
    let call = hex("00 0500 00000000000000000000000000000000 00 01 07 00 0131");
    assert_eq!(call.len(), 0x19);
    screen_call(&call).unwrap();
    let Call::Request(request) = unpack::<Call>(&call, Vec::new()).unwrap() else { panic!("not a request") };
    assert_eq!(request.id, 7);
    let left = request.context.deadline.saturating_duration_since(std::time::Instant::now());
    assert!(left <= Duration::from_secs(5) && left > Duration::from_secs(4));
    let HelperRequest::Hello { client } = request.message else { panic!("not hello") };
    assert_eq!(client, ClientHello { version: "1".to_owned() });

    // The way back: a context of the same trace whose deadline is past encodes as 0 s.
    let mut context = request.context;
    context.deadline = std::time::Instant::now();
    let again = Call::Request(tarpc::Request { context, id: 7, message: HelperRequest::Hello { client } });
    let mut expected = call;
    expected[1] = 0;
    assert_eq!(pack(&again).unwrap().bytes, expected);

    let answer = tarpc::Response { request_id: 7, message: Ok(HelperResponse::Hello(Err(CallError::OutOfOrder))) };
    assert_eq!(pack(&answer).unwrap().bytes, hex("07 00 00 01 00"));
}

#[test]
fn a_deadline_that_would_overflow_the_clock_is_refused_before_it_is_decoded() {
    let request = |secs: u64| [&[0u8][..], &postcard::to_stdvec(&secs).unwrap(), &[0; 20]].concat();
    assert!(screen_call(&request(3600)).is_ok());
    for secs in [3601, 1 << 40, u64::MAX] {
        assert!(matches!(screen_call(&request(secs)), Err(FrameError::Deadline(found)) if found == secs));
    }
    assert!(screen_call(&[]).is_err());
    assert!(screen_call(&[0]).is_err());
    // Request (variant 0) spelled in two bytes must not slip past.
    assert!(screen_call(&[&[0x80, 0x00], &request(u64::MAX)[1..]].concat()).is_err());
}

mod over_tarpc {
    use super::*;
    use crate::message::*;
    use crate::rpc::{Helper, HelperClient};
    use tarpc::context;
    use tarpc::server::{BaseChannel, Channel};

    #[derive(Clone)]
    struct Echo;

    impl Helper for Echo {
        async fn hello(self, _: context::Context, _: ClientHello) -> Result<HelperHello, CallError> {
            Err(CallError::OverLimit)
        }
        async fn probe(self, _: context::Context, items: Vec<ProbeItem>) -> ProbeAnswer {
            Err(CallError::Failed(items.len().to_string()))
        }
        async fn submit(self, _: context::Context, _: Submission, plan: Fd) -> Result<Verdict, CallError> {
            rustix::io::write(&plan, b"seen").map_err(|e| CallError::Failed(e.to_string()))?;
            Ok(Verdict::Refused(Vec::new()))
        }
        async fn stream(self, _: context::Context) -> Result<Fd, CallError> {
            Ok(Fd::from(pipe().1))
        }
        async fn progress(self, _: context::Context, _: u64) -> Result<Progress, CallError> {
            Err(CallError::OutOfOrder)
        }
        async fn commit(self, _: context::Context) -> Result<(), CallError> {
            Ok(())
        }
        async fn cancel(self, _: context::Context) -> Result<(), CallError> {
            Ok(())
        }
        async fn report(self, _: context::Context) -> Result<Report, CallError> {
            Err(CallError::OutOfOrder)
        }
    }

    #[test]
    fn calls_carry_descriptors_in_requests_and_answers() {
        let (near, far) = Std::pair().unwrap();
        run(async {
            let server = BaseChannel::with_defaults(Transport::new(far, QUICK).unwrap().with_screen(screen_call));
            let task = tokio::spawn(server.execute(Echo.serve()).for_each_concurrent(4, |answer| answer));
            let client =
                HelperClient::new(tarpc::client::Config::default(), Transport::new(near, Limits::default()).unwrap())
                    .spawn();
            let submission = Submission { nonce: [0; 16], plan_hash: crate::Digest::of(b""), dry_run: false };
            for _ in 0..50 {
                let (read, write) = pipe();
                let (submitted, other) = futures::join!(
                    client.submit(context::current(), submission.clone(), write.into()),
                    client.stream(context::current())
                );
                assert_eq!(submitted.unwrap().unwrap(), Verdict::Refused(Vec::new()));
                assert!(other.unwrap().is_ok());
                let mut seen = [0; 8];
                assert_eq!(rustix::io::read(&read, &mut seen).unwrap(), 4);
                assert_eq!(rustix::io::read(&read, &mut seen).unwrap(), 0, "a copy of the descriptor is left open");
            }
            drop(client);
            task.await.unwrap();
        });
    }
}
