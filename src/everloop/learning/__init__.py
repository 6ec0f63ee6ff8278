"""IMPROVE: labels come in, learners train, drift is noticed, challengers are judged and published.

A label, in order:

intake       checked, into the journal, acknowledged
loop         the one thread that gives every model its turn
seat         one model's place in it: the lease, the trainer, its troubles
trainer      one model's learning: test, then train, decide when to fit
examiner     the test: live quality and drift of the champion's answers; `champion` answers
quality      what every version's answers were worth, by `tally`; `scorer` asks for their probabilities, `telling`
             when it is worth an event
apprentice   the clone of an incremental learner that learns every example

A fit, in order:

planning     which windows, which rows to judge by, where it runs
campaign     from the decision to fit to a version that serves, or the reason why not
fitting      on a thread or in a child process, whose program is `child`
challenge    what one fit does: try windows, judge, freeze
publisher    the result becomes a version

What they know: `config` (what a user can say), `window` (recent examples, packed), `memory` (all that a checkpoint holds),
`inputs` (what is asked, without labels), `learners/` (what can be trained).
"""
