#pragma once
/// @file curve.hpp
/// The loss over steps, as text for a terminal and as an SVG picture.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

class Curve {
 public:
  void add_training(Index step, double loss) { training_.push_back({static_cast<double>(step), loss}); }
  void add_validation(Index step, double loss) { validation_.push_back({static_cast<double>(step), loss}); }
  bool empty() const { return training_.empty(); }

  /// `rows` lines of `columns` characters: '.' training (mean of the steps in a column), 'o' validation.
  std::string text(Index columns = 64, Index rows = 12) const {
    if (empty()) return "no step was made\n";
    const Frame f = frame();
    std::vector<std::string> canvas(to_size(rows), std::string(to_size(columns), ' '));
    const auto put = [&](double x, double y, char mark) {
      const auto column = static_cast<Index>(std::lround(f.x(x) * static_cast<double>(columns - 1)));
      const auto row = static_cast<Index>(std::lround((1 - f.y(y)) * static_cast<double>(rows - 1)));
      canvas[to_size(std::clamp<Index>(row, 0, rows - 1))][to_size(std::clamp<Index>(column, 0, columns - 1))] = mark;
    };
    for (const Point& p : thinned(columns)) put(p.step, p.loss, '.');
    for (const Point& p : validation_) put(p.step, p.loss, 'o');
    std::string result;
    for (std::size_t r = 0; r < canvas.size(); ++r) {
      char label[32];
      const double value = f.high - (f.high - f.low) * static_cast<double>(r) / static_cast<double>(std::max<Index>(1, rows - 1));
      std::snprintf(label, sizeof label, "%8.3f |", value);
      result += label + canvas[r] + "\n";
    }
    char foot[96];
    std::snprintf(foot, sizeof foot, "          steps %.0f to %.0f; . training, o validation (nats per token)\n", f.first,
                  f.last);
    return result + foot;
  }

  /// A self-contained SVG picture.
  std::string svg() const {
    std::string picture =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 360\" font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"720\" height=\"360\" fill=\"white\"/>\n";
    if (empty()) return picture + "</svg>\n";
    const Frame f = frame();
    char line[200];
    for (int i = 0; i <= 4; ++i) {
      const double y = 20 + 300.0 * i / 4, value = f.high - (f.high - f.low) * i / 4;
      std::snprintf(line, sizeof line,
                    "<line x1=\"60\" x2=\"700\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"8\" y=\"%.1f\">%.3f</text>\n",
                    y, y, y + 4, value);
      picture += line;
    }
    const auto path = [&](const std::vector<Point>& points, const char* colour, const char* width) {
      picture += "<polyline fill=\"none\" stroke=\"" + std::string(colour) + "\" stroke-width=\"" + width + "\" points=\"";
      for (const Point& p : points) {
        std::snprintf(line, sizeof line, "%.1f,%.1f ", 60 + 640 * f.x(p.step),
                      20 + 300 * (1 - std::clamp(f.y(p.loss), 0.0, 1.0)));
        picture += line;
      }
      picture += "\"/>\n";
    };
    path(thinned(640), "#69c", "1");
    path(validation_, "#c33", "2");
    std::snprintf(line, sizeof line, "<text x=\"60\" y=\"345\">step %.0f</text><text x=\"620\" y=\"345\">step %.0f</text>",
                  f.first, f.last);
    return picture + line +
           "<text x=\"230\" y=\"345\">loss in nats per token: training (blue), validation (red)</text>\n</svg>\n";
  }

 private:
  struct Point {
    double step, loss;
  };
  struct Frame {
    double first, last, low, high;
    double x(double step) const { return last > first ? (step - first) / (last - first) : 0; }
    double y(double loss) const { return high > low ? (loss - low) / (high - low) : 0; }
  };
  Frame frame() const {
    Frame f{training_.front().step, training_.back().step, training_.front().loss, training_.front().loss};
    for (const auto* points : {&training_, &validation_})
      for (const Point& p : *points) {
        f.low = (std::min)(f.low, p.loss);
        f.high = (std::max)(f.high, p.loss);
      }
    return f;
  }
  /// At most `count` points: means of neighbours.
  std::vector<Point> thinned(Index count) const {
    const std::size_t n = training_.size(), buckets = (std::min)(n, to_size(count));
    std::vector<Point> result;
    for (std::size_t b = 0; b < buckets; ++b) {
      const std::size_t first = n * b / buckets, last = n * (b + 1) / buckets;
      Point mean{0, 0};
      for (std::size_t i = first; i < last; ++i) {
        mean.step += training_[i].step;
        mean.loss += training_[i].loss;
      }
      const auto size = static_cast<double>(last - first);
      result.push_back({mean.step / size, mean.loss / size});
    }
    return result;
  }
  std::vector<Point> training_, validation_;
};

}  // namespace hybridmoe::train
