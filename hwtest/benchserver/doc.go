// Command benchserver measures the card management server as operators use it:
// requests come over HTTPS, cards are emulated in another process, commits are
// durable, on SQLite and on PostgreSQL.
//
// Three programs run, all this one: the server, wired as `cardbridge serve`
// wires it, so that its processor time is its alone; the cards
// (server/servertest/cardhost); and this one, which asks, waits for the outcome
// of each request, and measures the server's RSA bare between the slices. The
// last lines are `ratio NAME VALUE`, for machines to read; docs/bench says what
// each compares.
package main
