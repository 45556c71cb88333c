//! The root side of ProxSave.
//!
//! A front-end without privilege hands over a plan; this program checks it against policy and the live tree, and
//! carries it out, or refuses it whole. It never takes a caller's word for anything it can look at itself.
//!
//! # What it promises
//!
//! * **Only what policy grants.** Whatever a caller sends, in whatever order, and whenever it vanishes: nothing
//!   changes but targets of categories that this caller may restore, below the one root that was given at the start.
//! * **All reasons, before the first write.** A plan is refused whole, with every reason, or can be carried out as it
//!   was shown to the operator. A target that changed since then stops it.
//! * **Nothing half-written is visible.** Contents are staged, verified against the plan's hashes and made durable
//!   before the first name changes; then each name changes by one rename.
//! * **Everything is logged** before it is answered, in a chain that shows a changed or missing line.
//! * **Sandboxes are enforced or the work is refused.** There is no quiet fall-back: root alone can leave out
//!   Landlock, on the command line, and the log says so.
//!
//! # What it refuses to be
//!
//! * It never decrypts, decompresses, reads an archive, a manifest, a Proxmox configuration file or a network byte, and
//!   links nothing that could (`tests/boundary.rs`).
//! * No process of user 0 runs an asynchronous runtime or parses frames of the caller's connection.
//! * It never follows a symbolic link below the root, and never uses a path of more than one component but in the one
//!   `openat2` call that opens a directory from the root's descriptor.
//! * It never writes below `/etc/pve`, `/proc`, `/sys`, `/dev`, `/run` or to its own files, whoever asks
//!   ([`proxsave_proto::plan::guarded`]), and never makes or replaces a device, FIFO or socket.
//! * It never trusts its own workers more than they need: each holds only its descriptors and its cage.
//!
//! # The processes
//!
//! ```text
//! caller ══ socket ══ gate ── closed messages ── broker ──┬── prober   reads targets
//!    ║                own uid,                   root,    └── writer   stages, verifies, renames
//!    ║                nothing else               1 thread        ▲
//!    ╚═══════════════ contents, through a pipe ══════════════════╝
//! ```
//!
//! # How to read it
//!
//! In the order in which things happen: how a connection arrives ([`cli`], [`serve`]); who the caller is ([`caller`]) and
//! what it may do ([`policy`]); how its messages reach the broker ([`gate`]) and in which order they are allowed
//! ([`broker`]); how the root is walked and looked at ([`root`], [`facts`], [`probe`]); what a plan becomes ([`check`]);
//! how workers are caged ([`cage`], and [`sys`], the only module with `unsafe`); how files are written ([`writer`]); how
//! leftovers of a crash are found and removed ([`journal`]); what is logged ([`audit`]).

pub mod audit;
pub mod broker;
pub mod cage;
pub mod caller;
pub mod check;
pub mod cli;
pub mod facts;
pub mod gate;
pub mod journal;
pub mod policy;
pub mod probe;
pub mod root;
pub mod serve;
pub mod sys;
pub mod writer;
