//! Reading a picture.

use roxmltree::{Document, Node};

/// What is drawn, without the patterns that are only used.
pub fn drawn<'a>(picture: &'a Document<'_>) -> Vec<Node<'a, 'a>> {
    let is_definition = |node: &Node<'_, '_>| node.ancestors().any(|node| node.has_tag_name("defs"));
    picture.root_element().descendants().filter(|node| node.is_element() && !is_definition(node)).collect()
}

pub fn number(node: Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name).unwrap_or_else(|| panic!("no {name} in {node:?}")).parse().unwrap()
}

pub fn has_class(node: Node<'_, '_>, class: &str) -> bool {
    node.attribute("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
}

/// The texts one can read, without what comes after a name in smaller letters.
pub fn texts<'a>(picture: &'a Document<'_>) -> Vec<&'a str> {
    drawn(picture).into_iter().filter(|node| node.has_tag_name("text")).filter_map(|node| node.text()).collect()
}

/// Every point a shape touches, in pixels.
fn points(node: Node<'_, '_>) -> Vec<(f64, f64)> {
    let at = |x, y| (number(node, x), number(node, y));
    match node.tag_name().name() {
        "rect" => {
            let ((x, y), (width, height)) = (at("x", "y"), at("width", "height"));
            assert!(width >= 0.0 && height >= 0.0, "{node:?}");
            vec![(x, y), (x + width, y + height)]
        }
        "line" => vec![at("x1", "y1"), at("x2", "y2")],
        "circle" => {
            let ((x, y), r) = (at("cx", "cy"), number(node, "r"));
            vec![(x - r, y - r), (x + r, y + r)]
        }
        "text" => vec![at("x", "y")],
        "polygon" | "polyline" => {
            let pairs = node.attribute("points").unwrap().split(' ');
            pairs
                .map(|pair| pair.split_once(',').unwrap())
                .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
                .collect()
        }
        "svg" | "g" | "title" | "desc" | "style" | "tspan" => Vec::new(),
        other => panic!("a {other} is not expected here"),
    }
}

/// A picture is one XML document of known elements, refers to nothing outside, and draws nothing outside its frame.
pub fn check(svg: &str) {
    let picture = Document::parse(svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
    let root = picture.root_element();
    assert_eq!((root.tag_name().name(), root.tag_name().namespace()), ("svg", Some("http://www.w3.org/2000/svg")));
    let frame: Vec<f64> = root.attribute("viewBox").unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    let (width, height) = (frame[2], frame[3]);
    assert_eq!((frame[0], frame[1], number(root, "width"), number(root, "height")), (0.0, 0.0, width, height));
    let first: Vec<_> = root.children().filter(Node::is_element).take(2).collect();
    for (node, name) in first.into_iter().zip(["title", "desc"]) {
        assert!(node.has_tag_name(name) && node.text().is_some_and(|text| !text.is_empty()), "{name}: {node:?}");
    }
    for node in drawn(&picture) {
        for (x, y) in points(node) {
            assert!((0.0..=width).contains(&x) && (0.0..=height).contains(&y), "({x}, {y}) of {node:?}");
        }
        assert!(
            node.attributes()
                .all(|attribute| !attribute.name().starts_with("on") && !attribute.name().ends_with("href"))
        );
    }
    let style = root.children().find(|node| node.has_tag_name("style")).unwrap().text().unwrap();
    assert!(!style.contains("@import") && !style.contains("http"), "{style}");
}
