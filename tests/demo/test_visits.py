"""Uploads are deleted when their visitors leave."""

from captioner.demo.visits import Visits


def test_a_photo_is_deleted_when_its_visitor_leaves(tmp_path):
    photo, other = tmp_path / "photo.jpg", tmp_path / "other.jpg"
    photo.touch(), other.touch()
    visits = Visits()
    visits.look_at("ann", photo)
    visits.look_at("ben", other)
    visits.leave("ann")
    assert not photo.exists()
    assert other.exists()
    visits.leave("ann")  # who is gone cannot take anything along


def test_a_photo_is_deleted_when_its_visitor_chooses_another(tmp_path):
    first, second = tmp_path / "1.jpg", tmp_path / "2.jpg"
    first.touch(), second.touch()
    visits = Visits()
    visits.look_at("ann", first)
    visits.look_at("ann", first)
    assert first.exists()
    visits.look_at("ann", second)
    assert not first.exists()
    assert second.exists()


def test_a_photo_of_two_visitors_is_deleted_when_both_have_left(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.touch()
    visits = Visits()
    visits.look_at("ann", photo)
    visits.look_at("ben", photo)
    visits.leave("ann")
    assert photo.exists()
    visits.leave("ben")
    assert not photo.exists()


def test_a_photo_is_kept_while_a_request_for_it_is_pending(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.touch()
    visits = Visits()
    visits.expect(photo)
    visits.expect(photo)
    visits.look_at("ann", photo)
    visits.look_at("ann", photo)  # with other options: no second upload
    visits.leave("ann")
    assert photo.exists()
    visits.look_at("ben", photo)
    visits.leave("ben")
    assert not photo.exists()


def test_examples_stay(tmp_path):
    example = tmp_path / "cat.jpg"
    example.touch()
    visits = Visits(kept=lambda: {str(example)})
    visits.look_at("ann", example)
    visits.leave("ann")
    assert example.exists()
