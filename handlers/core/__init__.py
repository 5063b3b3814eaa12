"""The runtime, whatever a request holds and whatever an answer is: it knows no kind of input and no kind of output."""
