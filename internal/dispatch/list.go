package dispatch

// link is the place of its owner in a list. It is part of the owner, so that
// joining and leaving a list costs neither memory nor a search.
type link[T any] struct {
	prev, next *link[T]
	owner      *T
}

// list is a doubly linked list of owners. The zero list is empty.
type list[T any] struct {
	first, last *link[T]
}

func (l *list[T]) empty() bool { return l.first == nil }

// front returns the first owner, nil if there is none.
func (l *list[T]) front() *T {
	if l.first == nil {
		return nil
	}
	return l.first.owner
}

// back returns the last owner, nil if there is none.
func (l *list[T]) back() *T {
	if l.last == nil {
		return nil
	}
	return l.last.owner
}

// pushFront puts owner, whose link k is in no list, in front of all others.
func (l *list[T]) pushFront(k *link[T], owner *T) {
	k.owner, k.prev, k.next = owner, nil, l.first
	if l.first == nil {
		l.last = k
	} else {
		l.first.prev = k
	}
	l.first = k
}

// pushBack puts owner, whose link k is in no list, behind all others.
func (l *list[T]) pushBack(k *link[T], owner *T) {
	k.owner, k.prev, k.next = owner, l.last, nil
	if l.last == nil {
		l.first = k
	} else {
		l.last.next = k
	}
	l.last = k
}

// remove takes out the owner of k, which must be in this list. It clears the
// link, so that one who has left keeps no neighbour alive.
func (l *list[T]) remove(k *link[T]) {
	if k.prev == nil {
		l.first = k.next
	} else {
		k.prev.next = k.next
	}
	if k.next == nil {
		l.last = k.prev
	} else {
		k.next.prev = k.prev
	}
	*k = link[T]{}
}
