package requests

// page is docs/faults-server.md: the table, the faults that happened, the trials
// that killed a process, and the last line.
const page = `# Faults at the steps of a request

Written by ` + "`make torture`" + `: what becomes of deactivation requests when something goes wrong in the middle of them, on one server or two
over one record, SQLite or PostgreSQL.

A trial is one or two cards (more, where some are in no reader), two to four requests of two operators (refused by rules, held and
approved or not, cancelled, expired, handed in twice under one idempotency key), and a fault at a named step of one of them; one in
five trials has a second fault at another step.

**Steps.** The writes of the record, by their names in the store: struck *before* the transaction does anything, or *after* it was
committed and before anybody was told. The command APDUs: struck *before* the card sees them, or *after* the card carried them out and
before the answer.

**Faults.**

- *server dies*: from the step on all that the server does fails at once; its goroutines and its store go, and after up to 30 ms a
  server starts from the record. *kill -9*: the server is a process of its own and gets SIGKILL at the step; the cards live on.
- *connection dropped*: PostgreSQL ends all of the server's sessions; on SQLite the write that is next fails, or its answer is lost.
- *card pulled*: for up to 40 ms. *answer lost*: of the card, or of the record, with the work done or not.
- *lease passes in sleep*: all of the server stops until its leases have passed, while another one may take over, and goes on then.
- *clock jumps*: the clock of all servers, by 1 s to 30 h, either way, until the end of the trial.
- *disk full*: every write of every server fails within its transaction, for up to 65 ms.
- *PostgreSQL restarts*: SIGKILL, or a fast shutdown in one of three rounds, and a start on the same data.

**Compared**, once the faults are gone and the servers had time: every record is its card (counter, states, nothing unsettled); the
card's event counter, and its own log of what it carried out, moved by the requests that are done; their receipts verify under the
card's key; every request that was taken in is there and has ended, or waits for an approval, or for a card that is away; an
idempotency key has one request; what was marked was not cancelled, expired or failed; by the audit trail no card had two requests
between mark and outcome at once; the guard's pending counts are the truth and no budget was exceeded; a server whose card was claimed
by another while it slept wrote nothing more under its claim.

A cell is how many trials its fault happened in, and how all requests of those trials ended. A request that waits at the end waits for
a card that is in no reader.

%s
%d trials whose fault happened; in %d a process was killed.

%s
`
